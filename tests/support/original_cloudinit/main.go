// Copyright (c) 2026, flotilla.cluster contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// CoreOS's own packages, as its agent calls them: what its validator says of documents, and what a document comes to in a
// directory.
//
//	original validate FILE...        for each file what the validator found, as JSON
//	original apply DIRECTORY FILE    what systemd was asked for, as JSON; addresses are COREOS_PRIVATE_IPV4 and its like
//
// The agent always works on "/", so the directory becomes that. Its user database and its host name are the machine's
// business and no file's: the original hands users, keys and names to programs, which are left out here.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/coreos/coreos-cloudinit/config"
	"github.com/coreos/coreos-cloudinit/config/validate"
	"github.com/coreos/coreos-cloudinit/datasource"
	"github.com/coreos/coreos-cloudinit/initialize"
	"github.com/coreos/go-systemd/dbus"
)

func main() {
	var said interface{}
	var err error
	switch {
	case filepath.Base(os.Args[0]) == "chown" && len(os.Args) == 3:
		err = chown(os.Args[1], os.Args[2])
	case len(os.Args) > 2 && os.Args[1] == "validate":
		said, err = judge(os.Args[2:])
	case len(os.Args) == 4 && os.Args[1] == "apply":
		said, err = apply(os.Args[2], os.Args[3])
	default:
		err = fmt.Errorf("give: validate FILE..., or apply DIRECTORY FILE")
	}
	if err == nil && said != nil {
		err = json.NewEncoder(os.Stdout).Encode(said)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "original:", err)
		os.Exit(1)
	}
}

// verdict is what the validator says of a file; Failed is why it could not say anything.
type verdict struct {
	Entries []validate.Entry `json:"entries"`
	Failed  string           `json:"failed"`
}

func judge(paths []string) ([]verdict, error) {
	found := []verdict{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		one := verdict{Entries: []validate.Entry{}}
		if report, err := validate.Validate(text); err == nil {
			one.Entries = append(one.Entries, report.Entries()...)
		} else {
			one.Failed = err.Error()
		}
		found = append(found, one)
	}
	return found, nil
}

func apply(root, path string) ([][]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if err := syscall.Chroot(root); err != nil {
		return nil, err
	}
	if err := os.Chdir("/"); err != nil {
		return nil, err
	}
	env := initialize.NewEnvironment("/", "", "/var/lib/coreos-cloudinit", "coreos-cloudinit", datasource.Metadata{})
	read, err := initialize.ParseUserData(env.Apply(string(text)))
	if err != nil {
		return nil, err
	}
	document, ok := read.(*config.CloudConfig)
	if !ok {
		return nil, fmt.Errorf("%s is no cloud-config", path)
	}
	document.Hostname, document.Users, document.SSHAuthorizedKeys = "", nil, nil
	if err := initialize.Apply(*document, nil, env); err != nil {
		return nil, err
	}
	return dbus.Calls, nil
}

// chown is the program of that name, which the original calls; the directory has no other.
func chown(owner, path string) error {
	name, group, both := strings.Cut(owner, ":")
	uid, gid := -1, -1
	if name != "" {
		found, err := user.Lookup(name)
		if err != nil {
			return err
		}
		uid, _ = strconv.Atoi(found.Uid)
	}
	if both && group != "" {
		found, err := user.LookupGroup(group)
		if err != nil {
			return err
		}
		gid, _ = strconv.Atoi(found.Gid)
	}
	return os.Chown(path, uid, gid)
}
