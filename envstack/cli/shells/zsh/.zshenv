# What `envstack shell` has zsh read first: the user's own files, from where they are, and then a
# mark in the prompt.

if [[ -n ${ENVSTACK_ZDOTDIR+set} ]]; then
    export ZDOTDIR=$ENVSTACK_ZDOTDIR
    unset ENVSTACK_ZDOTDIR
else
    unset ZDOTDIR
fi
[[ -r ${ZDOTDIR:-$HOME}/.zshenv ]] && . ${ZDOTDIR:-$HOME}/.zshenv

if [[ -o interactive ]]; then
    # Before each prompt, for themes that make theirs anew; last, from the first time on.
    _envstack_mark() {
        precmd_functions=(${precmd_functions:#_envstack_mark} _envstack_mark)
        local mark='(${ENVSTACK_ENV}) '
        [[ -o prompt_subst ]] || mark="(${ENVSTACK_ENV//\%/%%}) "
        [[ $PROMPT == "$mark"* ]] || PROMPT=$mark$PROMPT
    }
    precmd_functions+=(_envstack_mark)
fi
