#!/bin/bash
# Every C file is as clang-format would have it.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

mapfile -t files < <(c_files)
for file in "${files[@]}"; do
    clang-format --dry-run -Werror "$file" 2>/dev/null || finding "$file: clang-format -i $file"
done
conclude
