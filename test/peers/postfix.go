package peers

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/clrelay/clrelay/test/relayproc"
)

// Postfix is a private Postfix: own configuration, queue and port, tuned for
// throughput, with fsync on as it always is. It hands everything to one next
// hop and changes nothing in a message but the trace. It needs root, as
// Postfix does.
type Postfix struct {
	Dir    string // gets all its files, and is emptied first
	Addr   string // where it listens
	Master int    // process id of its master
}

// ErrNoPostfix is wrapped by StartPostfix's error where the machine has none
// to run.
var ErrNoPostfix = errors.New("no Postfix")

const mainCF = `compatibility_level = 3.6
queue_directory = %[1]s/queue
data_directory = %[1]s/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
myhostname = postfix.test
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
relayhost = [127.0.0.1]:%[2]s
disable_dns_lookups = yes
smtp_host_lookup = native
smtpd_peername_lookup = no
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_client_message_rate_limit = 0
smtpd_client_port_logging = no
alias_maps =
local_recipient_maps =
local_header_rewrite_clients =
message_size_limit = 0
mailbox_size_limit = 0
queue_minfree = 0
smtp_line_length_limit = 0
disable_mime_output_conversion = yes
smtputf8_enable = no
smtpd_tls_security_level = none
smtp_tls_security_level = none
default_process_limit = 200
default_destination_concurrency_limit = 100
initial_destination_concurrency = 100
smtp_destination_concurrency_limit = 100
smtp_connection_cache_on_demand = yes
smtp_connection_cache_destinations = [127.0.0.1]:%[2]s
in_flow_delay = 0
qmgr_message_active_limit = 50000
qmgr_message_recipient_limit = 50000
maillog_file = %[1]s/maillog
maillog_file_prefixes = %[1]s
`

// StartPostfix runs a Postfix in dir, which Postfix's own user must be able to
// reach, that relays everything to next, an address on 127.0.0.1.
func StartPostfix(dir, next string) (*Postfix, error) {
	if _, err := exec.LookPath("postfix"); err != nil {
		return nil, fmt.Errorf("%w: it is not installed", ErrNoPostfix)
	}
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: it needs root", ErrNoPostfix)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	p := &Postfix{Dir: dir, Addr: relayproc.FreeAddr()}
	if err := p.configure(next); err != nil {
		return nil, err
	}
	if out, err := p.command("start").CombinedOutput(); err != nil {
		log, _ := os.ReadFile(p.MailLog()) // there may be none
		return nil, fmt.Errorf("postfix start: %w: %s%s", err, out, log)
	}
	if err := p.awaitReady(); err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

// Stop ends it.
func (p *Postfix) Stop() {
	_ = p.command("stop").Run() // an error has no remedy but a look at the process list
}

// MailLog is the path of its log.
func (p *Postfix) MailLog() string { return filepath.Join(p.Dir, "maillog") }

func (p *Postfix) command(verb string) *exec.Cmd {
	return exec.Command("postfix", "-c", filepath.Join(p.Dir, "etc"), verb)
}

func (p *Postfix) configure(next string) error {
	if err := os.RemoveAll(p.Dir); err != nil {
		return err
	}
	for _, d := range []string{"etc", "queue", "data"} {
		if err := os.MkdirAll(filepath.Join(p.Dir, d), 0o755); err != nil {
			return err
		}
	}
	if out, err := exec.Command("chown", "postfix", filepath.Join(p.Dir, "data")).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	_, port, err := net.SplitHostPort(next)
	if err != nil {
		return err
	}
	etc := filepath.Join(p.Dir, "etc")
	if err := os.WriteFile(filepath.Join(etc, "main.cf"), fmt.Appendf(nil, mainCF, p.Dir, port), 0o644); err != nil {
		return err
	}
	master, err := os.ReadFile("/usr/share/postfix/master.cf.dist")
	if err != nil {
		return err
	}
	// Debian's own file with another port and no chroot, which would need a
	// copy of the C library's files in the queue directory.
	var out strings.Builder
	for line := range strings.Lines(string(master)) {
		f := strings.Fields(line)
		if len(f) >= 8 && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, " ") {
			if f[0] == "smtp" && f[1] == "inet" {
				f[0] = p.Addr
			}
			f[4] = "n"
			line = strings.Join(f, " ") + "\n"
		}
		out.WriteString(line)
	}
	return os.WriteFile(filepath.Join(etc, "master.cf"), []byte(out.String()), 0o644)
}

func (p *Postfix) awaitReady() error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for limit := time.Now().Add(20 * time.Second); time.Now().Before(limit); <-tick.C {
		text, err := os.ReadFile(filepath.Join(p.Dir, "queue/pid/master.pid"))
		if err != nil {
			continue
		}
		if p.Master, err = strconv.Atoi(strings.TrimSpace(string(text))); err != nil {
			continue
		}
		if c, err := net.Dial("tcp", p.Addr); err == nil {
			return c.Close()
		}
	}
	return fmt.Errorf("postfix does not listen on %s, see %s", p.Addr, p.MailLog())
}
