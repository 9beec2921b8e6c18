# Sourced by tests/run and stacks/demo: system packages and the virtual environment, if missing.

# need COMMAND:PACKAGE...: install the packages whose commands are missing, and Python if that is
# (python3-venv brings it), or say why not.
need() {
    local missing=() pair
    for pair in "$@"; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
    done
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    [ "${#missing[@]}" -eq 0 ] && return
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "not installed, for want of root or of apt-get: ${missing[*]}" >&2
        return
    fi
    echo "installing ${missing[*]}" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# environment EXTRA: make .venv with this checkout installed, and put it first on PATH.
environment() {
    local stamp=.venv/installed$1
    if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
        python3 -m venv .venv
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".$1"
        touch "$stamp"
    fi
    PATH="$PWD/.venv/bin:$PATH"
}
