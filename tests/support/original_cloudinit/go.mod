// What the original's packages are built from. They are older than Go's modules, so their requirements are named here.
module flotilla.test/original-cloudinit

go 1.21

require (
	github.com/coreos/coreos-cloudinit v1.14.0
	github.com/coreos/go-systemd v0.0.0
)

require (
	github.com/coreos/yaml v0.0.0-20141224210557-6b16a5714269 // indirect
	github.com/dotcloud/docker v0.11.1 // indirect
)

replace github.com/coreos/go-systemd => ./systemd
