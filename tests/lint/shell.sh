#!/bin/bash
# The checker of shells finds nothing to warn of in any script, and each one stops at errors.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

mapfile -t scripts < <(find .ci preload.sh "${code[@]}" -type f \( -name '*.sh' -o -path '.ci/*' \) | sort)
shellcheck --severity=warning -x -P SCRIPTDIR "${scripts[@]}" || finding "shellcheck: see above"
for script in "${scripts[@]}"; do
    # What is sourced has no interpreter of its own and goes by its caller's options.
    if head -n 1 "$script" | grep -q '^#!' && ! grep -q '^set -euo pipefail' "$script"; then
        finding "$script: without set -euo pipefail"
    fi
done
conclude
