#!/bin/sh
# Puts Debian's prometheus and promtool into a folder, without installing or starting anything: fetch_prometheus.sh FOLDER
#
# `FOLDER/usr/bin/prometheus` is a program of its own. Nothing is fetched where the two are on the PATH already.
set -eu
folder=$1
if command -v prometheus >/dev/null && command -v promtool >/dev/null; then exit 0; fi
[ -x "$folder/usr/bin/promtool" ] && exit 0
rm -rf "$folder.new"
mkdir -p "$folder.new"
(cd "$folder.new" && { apt-get -qq download prometheus || { apt-get -qq update && apt-get -qq download prometheus; }; })
dpkg-deb -x "$folder.new"/prometheus_*.deb "$folder.new"
rm -rf "$folder.new"/prometheus_*.deb "$folder"
mv "$folder.new" "$folder"
