#!/bin/sh
# Installs the Debian packages that the tests with real peers need. Without
# apt or root it says what will be skipped and goes on: those tests skip
# themselves. No service is started: policy-rc.d refuses while it installs.
set -eu
want=""
for pair in postfix:postfix swaks:swaks xfs_io:xfsprogs strace:strace python3:python3 mkfs.ext4:e2fsprogs haproxy:haproxy nft:nftables ip:iproute2 nsenter:util-linux; do
	command -v "${pair%%:*}" >/dev/null 2>&1 || [ -x "/usr/sbin/${pair%%:*}" ] || want="$want ${pair##*:}"
done
perl -MNet::SSLeay -e 1 2>/dev/null || want="$want libnet-ssleay-perl" # TLS for swaks
[ -n "$want" ] || exit 0
if ! command -v apt-get >/dev/null 2>&1 || [ "$(id -u)" != 0 ]; then
	echo "deps: no apt-get or not root: tests that need$want will be skipped"
	exit 0
fi
echo "deps: installing$want"
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod +x "$policy"
	trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq >/dev/null 2>&1 || echo "deps: apt-get update did not work"
# shellcheck disable=SC2086 # a list of words
apt-get install -y -qq --no-install-recommends $want >/dev/null 2>&1 ||
	echo "deps: could not install$want: tests that need them will be skipped"
