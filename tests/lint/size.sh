#!/bin/bash
# A file over 500 lines is a question about the design.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

limit=500
while read -r file; do
    lines=$(wc -l <"$file")
    [ "$lines" -le "$limit" ] || finding "$file: $lines lines, more than $limit"
done < <(c_files; find preload.sh "${code[@]}" -name '*.sh')
conclude
