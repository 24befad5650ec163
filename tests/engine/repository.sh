#!/bin/sh
# An apt repository that is made and signed as docker's own is: repository.sh FOLDER SUITE COMPONENT VERSION...
#
# Its packages have docker's names and the distribution's programs, so that they run. Beside them is one that the
# distribution has as well, with a higher version: nothing may ever take it from here. The key that signs is
# FOLDER/key.asc, and a stranger's is FOLDER/stranger.asc; their fingerprints are printed in that order.
set -eu
folder=$1 suite=$2 component=$3
shift 3
export DEBIAN_FRONTEND=noninteractive GNUPGHOME="$folder/gnupg"
apt-get -qq install -y --no-install-recommends apt-utils gnupg >/dev/null
pool=$folder/www/pool lists=$folder/www/dists/$suite/$component/binary-amd64
mkdir -p "$pool" "$lists" "$folder/debs"
install -d -m 0700 "$GNUPGHOME"

# The distribution's packages, taken apart. A newer one has the client as a package of its own.
cd "$folder/debs"
parts="docker.io containerd runc"
if [ -n "$(apt-cache show docker-cli 2>/dev/null)" ]; then parts="$parts docker-cli"; fi
for name in $parts; do
    cp "/var/cache/apt/archives/${name}"_*.deb . 2>/dev/null || apt-get -qq download "$name"
    dpkg-deb --raw-extract "${name}"_*.deb "$folder/$name"
done
needs=$(sed -n 's/^Depends: //p' docker.io/DEBIAN/control 2>/dev/null || sed -n 's/^Depends: //p' "$folder/docker.io/DEBIAN/control")
needs=$(printf %s "$needs" | tr , '\n' | grep -Ev '^ *(containerd|runc|docker-cli|docker-buildx|tini-static)\b' | paste -s -d ,)

# pack NAME VERSION DEPENDS: makes a package of $folder/NAME
pack() {
    tree=$folder/$1
    mkdir -p "$tree/usr/share/doc/$1" "$tree/DEBIAN"
    echo "$2" >"$tree/usr/share/doc/$1/VERSION"
    cat >"$tree/DEBIAN/control" <<CONTROL
Package: $1
Version: $2
Architecture: amd64
Maintainer: Nobody <nobody@example.invalid>
Description: made for a test
${3:+Depends: $3}
CONTROL
    sed -i '/^$/d' "$tree/DEBIAN/control"
    (cd "$tree" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | xargs -0 md5sum >DEBIAN/md5sums)
    dpkg-deb --build --root-owner-group -Znone "$tree" "$pool" >/dev/null
}

mv "$folder/docker.io" "$folder/docker-ce"
mv "$folder/containerd" "$folder/containerd.io"
cp -a "$folder/runc/usr" "$folder/containerd.io/"
mkdir -p "$folder/docker-ce-cli/usr/bin"
if [ -d "$folder/docker-cli" ]; then
    cp -a "$folder/docker-cli/usr" "$folder/docker-ce-cli/"
else
    mv "$folder/docker-ce/usr/bin/docker" "$folder/docker-ce-cli/usr/bin/"
fi
for version; do
    pack docker-ce "5:$version-1~debian" "containerd.io, docker-ce-cli, $needs"
    pack docker-ce-cli "5:$version-1~debian" libc6
done
pack containerd.io 1.7.28-1~debian libc6,libseccomp2
pack busybox-static 99:1-1 ""

sign() { gpg --batch --quiet --yes --local-user "$1" "$2" --output "$4" "$3"; }
for name in docker stranger; do
    gpg --batch --quiet --passphrase '' --quick-generate-key "$name@example.invalid" ed25519 sign never 2>/dev/null
done
gpg --armor --export docker@example.invalid >"$folder/key.asc"
gpg --armor --export stranger@example.invalid >"$folder/stranger.asc"
cd "$folder/www"
apt-ftparchive packages pool >"$lists/Packages"
apt-ftparchive -o "APT::FTPArchive::Release::Suite=$suite" -o "APT::FTPArchive::Release::Codename=$suite" \
    -o APT::FTPArchive::Release::Architectures=amd64 -o "APT::FTPArchive::Release::Components=$component" \
    release "dists/$suite" >"$folder/Release"
sign docker@example.invalid --clearsign "$folder/Release" "dists/$suite/InRelease"
gpg --list-keys --with-colons docker@example.invalid stranger@example.invalid | awk -F: '$1 == "fpr" {print $10}'
