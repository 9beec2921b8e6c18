#compdef envstack
# Completion of envstack for zsh. To load it, after compinit: source <(envstack completion zsh)
# Or keep it as a file _envstack in a directory of $fpath.

_envstack() {
    local line
    local -a found
    for line in ${(f)"$(_ENVSTACK_COMPLETE=1 ${~words[1]} "${(@Q)words[2,CURRENT-1]}" "$PREFIX" 2>/dev/null)"}; do
        case $line in
            :directories) _files -/ ;;
            :files) _files ;;
            :stackfiles) _files -g '*.(yaml|yml)' ;;
            *$'\t'*) found+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}") ;;
            *) found+=("${line//:/\\:}") ;;
        esac
    done
    (( $#found )) && _describe -V 'envstack' found
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _envstack "$@"
else
    compdef _envstack envstack
fi
