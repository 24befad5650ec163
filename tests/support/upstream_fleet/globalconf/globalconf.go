// Copyright (c) 2026, flotilla.cluster contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// Package globalconf stands in for the library of that name, which upstream's fleetd reads its configuration with: it
// gives a set of flags the values of environment variables and of a file of key=value lines.
package globalconf

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"strings"
)

// Options names the file ("" for none) and what the names of environment variables begin with.
type Options struct {
	Filename  string
	EnvPrefix string
}

// GlobalConf holds what was read.
type GlobalConf struct {
	settings map[string]string
	prefix   string
}

// Register is part of the library's interface and has nothing to do here.
func Register(string, *flag.FlagSet) {}

// NewWithOptions reads the file.
func NewWithOptions(options *Options) (*GlobalConf, error) {
	conf := &GlobalConf{settings: map[string]string{}, prefix: options.EnvPrefix}
	if options.Filename == "" {
		return conf, nil
	}
	file, err := os.Open(options.Filename)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.ContainsAny(line[:1], "#;[") {
			continue
		}
		key, value, found := strings.Cut(line, "=")
		if !found {
			return nil, fmt.Errorf("%s: %q is not key=value", options.Filename, line)
		}
		value = strings.TrimSpace(value)
		if len(value) > 1 && value[0] == '"' && value[len(value)-1] == '"' {
			value = value[1 : len(value)-1]
		}
		conf.settings[strings.TrimSpace(key)] = value
	}
	return conf, lines.Err()
}

// ParseSet sets the flags that the command line did not: from the environment, else from the file.
func (conf *GlobalConf) ParseSet(_ string, set *flag.FlagSet) {
	given := map[string]bool{}
	set.Visit(func(item *flag.Flag) { given[item.Name] = true })
	set.VisitAll(func(item *flag.Flag) {
		if given[item.Name] {
			return
		}
		value, found := os.LookupEnv(conf.prefix + strings.ToUpper(item.Name))
		if !found {
			value, found = conf.settings[item.Name]
		}
		if !found {
			return
		}
		if err := set.Set(item.Name, value); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", item.Name, err)
			os.Exit(2)
		}
	})
}
