# Completion of envstack for bash. To load it: eval "$(envstack completion bash)"

_envstack() {
    local line current=${COMP_WORDS[COMP_CWORD]}
    [[ $current == = ]] && current=
    COMPREPLY=()
    while IFS= read -r line; do
        case $line in
            :directories) compopt -o dirnames ;;
            :files) compopt -o default ;;
            :stackfiles)
                compopt -o filenames
                while IFS= read -r line; do
                    COMPREPLY+=("$line")
                done < <(compgen -d -- "$current"
                         compgen -f -X '!*.yaml' -- "$current"
                         compgen -f -X '!*.yml' -- "$current") ;;
            *)  # Quoted: the shell reads it once more when the line is run.
                printf -v line %q "${line%%$'\t'*}"
                COMPREPLY+=("$line") ;;
        esac
    done < <(_ENVSTACK_COMPLETE=1 "$1" "${COMP_WORDS[@]:1:COMP_CWORD-1}" "$current" 2>/dev/null)
}

complete -o nosort -F _envstack envstack 2>/dev/null || complete -F _envstack envstack
