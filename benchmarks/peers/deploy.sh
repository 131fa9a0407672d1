#!/usr/bin/env bash
# The script that many write and start from cron, in its careful form: it stops at the first error (cron mails it),
# writes a file beside and renames it only if it differs, and always has Compose look.
# Settings: URL (of the repository), CONFIG (its clone), APP (the Compose project); ONLY_NEW=yes ends it where git has
# nothing new, so that a hand edit stays.
set -euo pipefail
umask 077

[[ -d $CONFIG ]] || git clone --quiet "$URL" "$CONFIG"
cd "$CONFIG"
git fetch --quiet origin main
if [[ ${ONLY_NEW:-} == yes && $(git rev-parse HEAD) == $(git rev-parse FETCH_HEAD) ]]; then
    exit 0
fi
git reset --quiet --hard FETCH_HEAD
for source in .env *.env; do
    sops decrypt --input-type dotenv --output-type dotenv "$source" > "$APP/$source.new"
    if cmp --silent "$APP/$source.new" "$APP/$source"; then
        rm "$APP/$source.new"
    else
        mv "$APP/$source.new" "$APP/$source"
    fi
done
cd "$APP"
docker compose up --detach --wait
