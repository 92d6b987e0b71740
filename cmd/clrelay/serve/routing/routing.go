// Package routing makes the table of routes of the configuration.
package routing

import (
	"github.com/clrelay/clrelay/delivery/route"
	"github.com/clrelay/clrelay/internal/config"
	"github.com/clrelay/clrelay/internal/mail"
)

// Table makes the table of the settings.
func Table(c *config.Cluster) (*route.Table, error) {
	pools := map[string]string{}
	for _, e := range c.Senders {
		if e.Pool != "" {
			pools[string(e.Name)] = string(e.Pool)
		}
	}
	var rules []route.Rule
	for _, r := range c.Routes {
		rule := route.Rule{Name: string(r.Name), Action: action(&r.Action)}
		for _, d := range r.Match.Domains {
			rule.Domains = append(rule.Domains, string(d))
		}
		rules = append(rules, rule)
	}
	return route.New(rules, pools)
}

func action(a *config.Action) route.Action {
	out := route.Action{LMTP: a.LMTP, EightBitFail: a.EightBit == "bounce", Balance: a.Balance, Pool: string(a.Pool)}
	for _, h := range a.Smarthost {
		out.Hosts = append(out.Hosts, mail.HostPort{Name: h.Name, Port: h.Port})
	}
	switch a.TLS {
	case config.TLSNone:
		out.TLS = mail.TLSNone
	case config.TLSRequire:
		out.TLS = mail.TLSRequire
	case config.TLSVerify:
		out.TLS = mail.TLSVerify
	}
	if a.Auth != nil {
		out.Auth = &mail.Credentials{User: string(a.Auth.User), PasswordFile: string(a.Auth.PasswordFile)}
	}
	return out
}
