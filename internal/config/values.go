package config

import (
	"net/netip"

	"github.com/clrelay/clrelay/internal/config/words"
)

// The values that all sections have.
type (
	Duration = words.Duration // a number with s, m, h or d
	Size     = words.Size     // octets
	Name     = words.Name     // what the operator calls a thing
	Path     = words.Path     // a file or folder, absolute once loaded
	Text     = words.Text     // any words
	Listen   = words.Listen   // an address to listen on
	Network  = words.Network  // a range of IP addresses
	Domain   = words.Domain   // in lower-case A-labels
	Pattern  = words.Pattern  // a domain, or all below it
	Host     = words.Host     // of a smarthost, with a port
	Address  = words.Address  // of a machine, without a port
	IP       = words.IP       // of a machine
	Server   = words.Server   // of a resolver
	Mailbox  = words.Mailbox  // a mail address with a domain
)

// Prefixes takes the networks out of their wrapping.
func Prefixes(ns []Network) []netip.Prefix { return words.Prefixes(ns) }
