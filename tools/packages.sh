# shellcheck shell=bash disable=SC2034 # used by who sources it
#
# packages.sh - what the scripts install; sourced, not run
#
# Names are those of Debian 12 and 13, and mostly Ubuntu's. Elsewhere nothing is installed, and the build says what it
# misses.

# To build, and to mount as an ordinary user.
packages_build="gcc libc6-dev meson ninja-build pkg-config python3 liburing-dev libxxhash-dev libbsd-dev libjansson-dev
	libblkid-dev uuid-dev libnuma-dev libcmocka-dev fuse3"

# To test everything: compilers, what is run on a mounted filesystem, and what makes images of other filesystems.
packages_check="clang git rsync sqlite3 fio attr acl stress-ng dbench e2fsprogs"

# packages_missing <package>...: those that are not installed.
packages_missing()
{
	local p

	command -v dpkg-query >/dev/null || return 0
	for p in "$@"; do
		dpkg-query -W -f '${Status}\n' "$p" 2>/dev/null | grep -q 'ok installed' || printf '%s ' "$p"
	done
}

# packages_install <package>...: installs what is missing. 1: something still is; it has been said what.
packages_install()
{
	local missing sudo=()

	missing=$(packages_missing "$@")
	[ -z "$missing" ] && return 0
	if [ "$(id -u)" -ne 0 ]; then
		if ! sudo -n true 2>/dev/null; then
			echo "missing packages: $missing"
			echo "install them as root: apt-get install --no-install-recommends $missing"
			return 1
		fi
		sudo=(sudo -n)
	fi
	printf '\n== installing %s\n' "$missing"
	"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q update
	# shellcheck disable=SC2086 # a list of words
	"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install $missing && return 0
	# One that an archive does not have must not keep the others away.
	for p in $missing; do
		"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install "$p" >/dev/null 2>&1
	done
	missing=$(packages_missing "$@")
	[ -z "$missing" ] && return 0
	echo "could not be installed: $missing"
	return 1
}
