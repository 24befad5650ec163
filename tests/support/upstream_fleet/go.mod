// What upstream's fleet 1.0.0 is built from. It is older than Go's modules, so its requirements are named here.
module flotilla.test/upstream-fleet

go 1.21

require (
	github.com/coreos/etcd v3.3.27+incompatible
	github.com/coreos/fleet v1.0.0
	github.com/coreos/go-semver v0.3.1
	github.com/coreos/go-systemd v0.0.0-20161114122254-48702e0da86b
	github.com/gogo/protobuf v1.3.2
	github.com/jonboulle/clockwork v0.1.0
	github.com/prometheus/client_golang v0.9.0
	github.com/rakyll/globalconf v0.0.0
	github.com/spf13/cobra v0.0.1
	github.com/spf13/pflag v1.0.0
	github.com/vishvananda/netlink v1.0.0
	golang.org/x/crypto v0.17.0
	google.golang.org/api v0.1.0
	google.golang.org/grpc v1.17.0
)

require (
	github.com/godbus/dbus v4.1.0+incompatible // indirect
	github.com/json-iterator/go v1.1.12 // indirect
	github.com/modern-go/reflect2 v1.0.2 // indirect
	github.com/vishvananda/netns v0.0.5 // indirect
)

replace github.com/rakyll/globalconf => ./globalconf
