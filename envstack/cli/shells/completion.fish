# Completion of envstack for fish. To load it: envstack completion fish | source
# Or keep it as ~/.config/fish/completions/envstack.fish

function __envstack_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    for line in (_ENVSTACK_COMPLETE=1 $words[1] $words[2..] "$current" 2>/dev/null)
        switch $line
            case :directories
                __fish_complete_directories "$current"
            case :files
                __fish_complete_path "$current"
            case :stackfiles
                __fish_complete_suffix .yaml
            case '*'
                printf '%s\n' $line
        end
    end
end

complete -c envstack -f -k -a '(__envstack_complete)'
