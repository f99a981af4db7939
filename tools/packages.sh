# shellcheck shell=bash disable=SC2034 # used by who sources it
#
# packages.sh - what the scripts install; sourced, not run
#
# Names are those of Debian 12 and 13, and mostly Ubuntu's. Elsewhere nothing is installed, and the build says what it
# misses.

# To build, and to mount as an ordinary user.
packages_build="gcc libc6-dev meson ninja-build pkg-config python3 liburing-dev libxxhash-dev libbsd-dev libjansson-dev
	libblkid-dev uuid-dev libcmocka-dev fuse3 ca-certificates"

# To test everything: compilers, what is run on a mounted filesystem, and what makes images of other filesystems.
packages_check="clang git make rsync sqlite3 fio attr acl stress-ng dbench e2fsprogs"

# packages_missing <package>...: those that are not installed.
packages_missing()
{
	local p

	command -v dpkg-query >/dev/null && command -v apt-get >/dev/null || return 0
	for p in "$@"; do
		dpkg-query -W -f '${Status}\n' "$p" 2>/dev/null | grep -q 'ok installed' || printf '%s ' "$p"
	done
}

# packages_apt <apt-get's arguments>...: asks nothing, waits for another apt to end (a new machine's own updates, often),
# and leaves out the line for each package.
packages_apt()
{
	"${packages_sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends \
		-o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" 2>&1 </dev/null |
		grep --line-buffered -Ev -e '^(Get|Hit|Ign):' -e '^(Selecting|Preparing|Unpacking|Setting up|Processing) ' \
			-e '^(\(?Reading|Building) ' -e '^(Suggested|Recommended) packages:' \
			-e '^The following (additional|NEW) ' -e '^debconf: delaying' -e '^Removing .diversion' -e '^  '
	return "${PIPESTATUS[0]}"
}

# packages_install <package>...: installs what is missing. 1: something still is; it has been said what.
packages_install()
{
	local missing p packages_sudo=()

	missing=$(packages_missing "$@")
	[ -z "$missing" ] && return 0
	if [ "$(id -u)" -ne 0 ]; then
		if ! sudo -n true 2>/dev/null; then
			echo "missing packages: $missing"
			echo "install them as root: apt-get install --no-install-recommends $missing"
			return 1
		fi
		packages_sudo=(sudo -n)
	fi
	printf '\n== installing %s\n' "$missing"
	# Twice: archives and networks have bad moments.
	for _ in 1 2; do
		packages_apt update
		# shellcheck disable=SC2086 # a list of words
		packages_apt install $missing && return 0
	done
	# One that an archive does not have must not keep the others away.
	for p in $missing; do
		packages_apt install "$p" >/dev/null
	done
	missing=$(packages_missing "$@")
	[ -z "$missing" ] && return 0
	echo "could not be installed: $missing"
	return 1
}
