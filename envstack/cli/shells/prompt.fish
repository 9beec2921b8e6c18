# What `envstack shell` has fish do after its own files: a mark in the prompt.

functions --query fish_prompt; and functions --copy fish_prompt _envstack_prompt
function fish_prompt
    printf '(%s) ' $ENVSTACK_ENV
    functions --query _envstack_prompt; and _envstack_prompt
end
