# What `envstack shell` has bash read in place of ~/.bashrc: that file, and then a mark in the prompt.

[ -r ~/.bashrc ] && . ~/.bashrc

_envstack_mark() {
    [[ $PS1 == *'${ENVSTACK_ENV}'* ]] || PS1='(${ENVSTACK_ENV}) '$PS1
}
_envstack_mark
# Once more before each prompt, for themes that make theirs anew; last, and whatever form it has.
if [[ $(declare -p PROMPT_COMMAND 2>/dev/null) == 'declare -a'* ]]; then
    PROMPT_COMMAND+=(_envstack_mark)
else
    PROMPT_COMMAND="${PROMPT_COMMAND:+$PROMPT_COMMAND$'\n'}_envstack_mark"
fi
