// Copyright (c) 2026, flotilla.cluster contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// Package dbus stands in for the library of that name: there is no systemd where the original runs in tests, so it notes
// what it is asked for, and answers as systemd does when all goes well.
package dbus

// Calls is what was asked for, in this order.
var Calls = [][]string{}

// Conn is a connection to nobody.
type Conn struct{}

// Property of a transient unit.
type Property struct{}

// EnableUnitFileChange is what enabling a unit has changed.
type EnableUnitFileChange struct{}

// New connects.
func New() (*Conn, error) { return &Conn{}, nil }

func note(words ...string) (string, error) {
	Calls = append(Calls, words)
	return "done", nil
}

// EnableUnitFiles enables units.
func (c *Conn) EnableUnitFiles(files []string, runtime bool, force bool) (bool, []EnableUnitFileChange, error) {
	note(append([]string{"enable"}, files...)...)
	return true, nil, nil
}

// Reload makes systemd read its units again.
func (c *Conn) Reload() error {
	note("daemon-reload")
	return nil
}

// StartUnit and the rest command a unit.
func (c *Conn) StartUnit(name, mode string) (string, error)      { return note("start", name) }
func (c *Conn) StopUnit(name, mode string) (string, error)       { return note("stop", name) }
func (c *Conn) RestartUnit(name, mode string) (string, error)    { return note("restart", name) }
func (c *Conn) ReloadUnit(name, mode string) (string, error)     { return note("reload", name) }
func (c *Conn) TryRestartUnit(name, mode string) (string, error) { return note("try-restart", name) }
func (c *Conn) ReloadOrRestartUnit(name, mode string) (string, error) {
	return note("reload-or-restart", name)
}
func (c *Conn) ReloadOrTryRestartUnit(name, mode string) (string, error) {
	return note("reload-or-try-restart", name)
}

// StartTransientUnit runs a script.
func (c *Conn) StartTransientUnit(name, mode string, properties ...Property) (string, error) {
	return note("run", name)
}

// PropDescription describes a transient unit.
func PropDescription(text string) Property { return Property{} }

// PropExecStart says what a transient unit runs.
func PropExecStart(command []string, uncleanIsFailure bool) Property { return Property{} }
