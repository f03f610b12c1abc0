#!/bin/sh
# Installs the OTA Server as a service of Debian, Ubuntu or Raspberry Pi OS. Run again it upgrades; see --help.
set -eu
umask 022

NAME=ota-server
OPT=/opt/ota-server
VAR=/var/lib/ota-server
SETTINGS=/etc/default/ota-server
UNITS=/usr/local/lib/systemd/system
COMMAND=/usr/local/bin/ota-server
PYTHON_NEEDED='Python 3.11 or newer (Debian 12, Ubuntu 24.04, Raspberry Pi OS 12 or later bring it)'

usage() {
  cat <<EOF
Usage: sudo ./install.sh [options]

Installs the OTA Server of this folder as the service ota-server. Run again it upgrades, and keeps
$SETTINGS and what \`systemctl edit ota-server\` changed.

  --dir DIR      folder with the firmware images (default: $VAR/firmware)
  --port PORT    where devices are served: a port or a Twisted endpoint string (default: 8000)
  --wheels DIR   take packages from this folder only, without network; docs/service.md says how to fill it
  --no-start     don't start it now, nor stop what runs; it starts with the machine
  --uninstall    stop and remove the service; firmware, state and settings stay
  --help         display this help and exit
EOF
}

fail() {
  echo "install.sh: $*" >&2
  exit 1
}

say() {
  echo "$*"
}

# Prints the value of one setting as it stands in the settings file, without its quotes.
setting() {
  [ ! -e "$SETTINGS" ] || sed -n "s/^$1=//p" "$SETTINGS" | tail -n 1 | sed "s/^\([\"']\)\(.*\)\1\$/\2/"
}

# Writes one setting into the settings file, and leaves all others as they are.
set_setting() {
  case $2 in *"'"* | *"
"*) fail "$1 can't have the value $2: it has a quote or a line break" ;; esac
  line="$1='$2'" awk -v start="$1=" '
    index($0, start) == 1 { if (!done) print ENVIRON["line"]; done = 1; next }
    { print }
    END { if (!done) print ENVIRON["line"] }' "$SETTINGS" >"$SETTINGS.new"
  chmod --reference="$SETTINGS" "$SETTINGS.new"
  chown --reference="$SETTINGS" "$SETTINGS.new"
  mv "$SETTINGS.new" "$SETTINGS"
}

systemd_runs() {
  [ -d /run/systemd/system ]
}

uninstall() {
  if systemd_runs; then
    for unit in "$NAME.socket" "$NAME.service"; do
      [ ! -e "$UNITS/$unit" ] || systemctl --quiet disable --now "$unit"
    done
  elif [ -e "$UNITS/$NAME.service" ]; then
    systemctl --quiet disable "$NAME.socket" "$NAME.service"
  fi
  rm -rf "$UNITS/$NAME.service" "$UNITS/$NAME.socket" "$UNITS/$NAME.service.d" "$OPT"
  case $(readlink "$COMMAND" || true) in "$OPT"/*) rm -f "$COMMAND" ;; esac
  if systemd_runs; then
    systemctl daemon-reload
    systemctl reset-failed "$NAME.service" 2>/dev/null || true
  fi
  say "removed the service, $OPT and $COMMAND"
  dir=$(setting OTA_SERVER_DIR)
  say "left the firmware (${dir:-$VAR/firmware}), the state ($VAR/state), $SETTINGS, and the user $NAME, who owns the state"
  say "to remove these as well: rm -r $VAR $SETTINGS && userdel $NAME"
}

# Finds a Python that is new enough, and can make virtual environments. Not one of another folder, such as
# pyenv's: the service can't look into homes.
find_python() {
  for python in /usr/bin/python3 /usr/bin/python3.14 /usr/bin/python3.13 /usr/bin/python3.12 /usr/bin/python3.11; do
    if [ -x "$python" ] && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      return
    fi
  done
  python=
}

need_python() {
  find_python
  if [ -z "$python" ] || ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    command -v apt-get >/dev/null || fail "$PYTHON_NEEDED with its module venv is needed; install it and run this again"
    # The module of the very Python that was found, where it isn't the system's.
    package=${python#/usr/bin/}
    package=${package:-python3}-venv
    say "installing $package"
    apt-get update -qq || fail "apt-get update failed; install $package yourself and run this again"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >/dev/null ||
      fail "$package can't be installed; install it yourself and run this again"
    find_python
    [ -n "$python" ] || fail "$PYTHON_NEEDED is needed"
  fi
}

make_user() {
  if ! getent passwd "$NAME" >/dev/null; then
    getent group "$NAME" >/dev/null || groupadd --system "$NAME"
    useradd --system --gid "$NAME" --home-dir "$VAR" --no-create-home --shell /usr/sbin/nologin "$NAME"
    say "made the user and group $NAME"
  fi
}

# Makes a folder for firmware, into which the members of the group may put files. One that is there stays as it is.
make_folder() {
  [ ! -d "$1" ] || return 0
  mkdir -p "$1"
  # The owner, if any, is whoever called sudo.
  chown "${SUDO_USER:-root}:$NAME" "$1"
  chmod 2775 "$1"
  say "made the folder $1"
}

# Prints the paths of a folder if it is in a home: where the service sees nothing, unless it is let in.
home_paths() {
  for path in "$1" "$(cd "$1" && pwd -P)"; do
    case $path in /home/* | /root/* | /run/user/*) printf '%s\n' "$path" ;; esac
  done | sort -u
}

# Ends where a path can't be that of a served folder.
check_path() {
  case $1 in
    *[\'\"\\\$%:\`]*) fail "--dir $1: quotes, backslashes and the signs \$ % : \` can't be part of the folder's path" ;;
    /tmp | /tmp/* | /var/tmp | /var/tmp/*) fail "--dir $1: the service has temporary files of its own; choose another" ;;
  esac
}

# Ends where the service couldn't read a folder.
check_folder() {
  [ -n "$(home_paths "$1")" ] || runuser -u "$NAME" -- test -r "$1" -a -x "$1" ||
    fail "--dir $1: the user $NAME can't read it; let it: chmod a+rx $1, and a+x for each folder above"
}

# Lets the service see a folder in a home, and nothing else there.
let_in() {
  drop_in=$UNITS/$NAME.service.d/10-folder.conf
  rm -f "$drop_in"
  paths=$(home_paths "$1")
  [ -n "$paths" ] || return 0
  mkdir -p "${drop_in%/*}"
  {
    printf '# Made by install.sh: of the homes the service sees this folder only.\n[Service]\nProtectHome=tmpfs\n'
    printf '%s\n' "$paths" | sed 's/.*/BindReadOnlyPaths="-&"/'
  } >"$drop_in"
}

install_units() {
  mkdir -p "$UNITS"
  for unit in "$NAME.service" "$NAME.socket"; do
    cp "$1/systemd/$unit" "$UNITS/$unit.new"
    mv "$UNITS/$unit.new" "$UNITS/$unit"
  done
  if systemd_runs; then systemctl daemon-reload; fi
}

# Makes one release current: the link changes in one step.
switch_to() {
  ln -sfn "$1" "$OPT/current.new"
  mv -T "$OPT/current.new" "$OPT/current"
  install_units "$1"
}

# Builds the program, beside any that runs, in a virtual environment whose path never changes.
build() {
  release=$OPT/releases/$(date -u +%Y%m%dT%H%M%SZ)-$$
  mkdir -p "$release"
  extras=
  case $(setting OTA_SERVER_OPTIONS) in *postgresql*) extras='[postgresql]' ;; esac
  # pip would leave traces in the checkout, and take in old ones.
  mkdir "$scratch/source"
  cp -R ota_server twisted setup.py pyproject.toml README.md LICENSE "$scratch/source/"
  "$python" -m venv "$release"
  set -- --quiet --disable-pip-version-check --no-input --no-cache-dir
  if [ -n "$wheels" ]; then set -- "$@" --no-index --find-links "$wheels"; fi
  "$release/bin/python" -m pip install "$@" "$scratch/source$extras" || fail "the packages can't be installed; nothing has changed"
  mkdir "$release/systemd"
  cp contrib/systemd/ota-server.service contrib/systemd/ota-server.socket "$release/systemd/"
  # The list of Twisted's plugins: the service may not write it.
  "$release/bin/python" -c 'from twisted.plugin import IPlugin, getPlugins; list(getPlugins(IPlugin))'
  (cd / && "$release/bin/twistd" ota --version >"$scratch/version") || fail "the program doesn't start; nothing has changed"
}

start() {
  if systemctl restart "$NAME.service"; then
    return 0
  fi
  journalctl --no-pager --output=cat --lines=10 --unit="$NAME.service" >&2 || true
  if [ -n "$before" ]; then
    cp -p "$scratch/settings" "$SETTINGS"
    let_in "$dir_before"
    switch_to "$before"
    rm -rf "$release"
    systemctl restart "$NAME.service" || true
    fail "the new version doesn't start, see above; the one before is in its place again"
  fi
  fail "the service doesn't start, see above; put it right in $SETTINGS, then: systemctl restart $NAME"
}

tell() {
  port=$(setting OTA_SERVER_PORT)
  case $port in '' | *[!0-9]*) address='http://localhost:8000' ;; *) address="http://localhost:$port" ;; esac
  case $(setting OTA_SERVER_OPTIONS) in *--cert*) address=https${address#http} ;; esac
  cat <<EOF
images    $dir
state     $VAR/state
settings  $SETTINGS; after a change: systemctl restart $NAME
log       journalctl -u $NAME
To put images there as an ordinary user: usermod -aG $NAME USER, and log in anew.
Try it:
  cp examples/firmware/firmware-1.1.0.bin $dir/
  curl -D - -o firmware.bin -H 'x-ESP8266-version: 1.0' $address/firmware
EOF
}

dir='' port='' wheels='' starting=yes removing=
while [ $# -gt 0 ]; do
  option=$1 value=
  shift
  case $option in
    --dir=* | --port=* | --wheels=*) value=${option#*=} option=${option%%=*} ;;
    --dir | --port | --wheels)
      [ $# -gt 0 ] || fail "$option needs a value (see --help)"
      value=$1
      shift
      ;;
  esac
  case $option in
    --dir | --port | --wheels) [ -n "$value" ] || fail "$option needs a value (see --help)" ;;
  esac
  case $option in
    --dir) dir=$(realpath -ms "$value") ;;
    --port) port=$value ;;
    --wheels) wheels=$(cd "$value" && pwd) || fail "--wheels $value: there is no such folder" ;;
    --no-start) starting= ;;
    --uninstall) removing=yes ;;
    --help | -h)
      usage
      exit
      ;;
    *) fail "$option is not an option (see --help)" ;;
  esac
done

if [ -n "$removing" ] && [ -n "$dir$port$wheels" ]; then fail "--uninstall takes no other option"; fi
[ "$(id -u)" = 0 ] || fail "this has to be run as root: sudo ./install.sh"
command -v systemctl >/dev/null || fail "there is no systemd here; docs/service.md says what else there is"
exec 9>/run/ota-server-install.lock
flock --nonblock 9 || fail "it is running already"
if [ -n "$removing" ]; then
  uninstall
  exit
fi

systemd_runs || [ -z "$starting" ] || fail "systemd doesn't run here; add --no-start to have it start with the machine"
cd "$(dirname "$0")"
[ -e contrib/systemd/ota-server.service ] || fail "run it in the folder of the program, with all of its files"
scratch=$(mktemp -d)
release=
trap 'rm -rf "$scratch"; [ "$(readlink "$OPT/current")" = "$release" ] || rm -rf "$release"' EXIT
trap 'exit 1' INT TERM HUP

need_python
make_user
dir_before=$(setting OTA_SERVER_DIR)
dir_before=${dir_before:-$VAR/firmware}
dir=${dir:-$dir_before}
check_path "$dir"
make_folder "$dir"
check_folder "$dir"
before=$(readlink "$OPT/current" || true)
build

if [ ! -e "$SETTINGS" ]; then
  install -m 640 contrib/systemd/ota-server.default "$SETTINGS"
fi
cp -p "$SETTINGS" "$scratch/settings"
[ "$dir" = "$dir_before" ] || set_setting OTA_SERVER_DIR "$dir"
[ -z "$port" ] || set_setting OTA_SERVER_PORT "$port"
let_in "$dir"
switch_to "$release"
if [ ! -e "$COMMAND" ] && [ ! -L "$COMMAND" ]; then ln -s "$OPT/current/bin/ota-server" "$COMMAND"; fi
if systemd_runs; then
  systemctl --quiet enable "$NAME.service"
else
  # The link that this makes; systemctl can't make it for a unit of this folder while systemd doesn't run.
  systemctl --quiet --root=/ enable "$NAME.service"
fi
if [ -n "$starting" ]; then
  start
  # Nobody uses the releases before any more.
  for old in "$OPT"/releases/*; do [ "$old" = "$release" ] || rm -rf "$old"; done
fi

if [ -n "$before" ]; then say "upgraded to $(cat "$scratch/version")"; else say "installed $(cat "$scratch/version")"; fi
tell
