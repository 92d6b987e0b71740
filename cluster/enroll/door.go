package enroll

import (
	"container/list"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	askTime    = 5 * time.Second  // for a machine to say what it wants
	decideTime = 20 * time.Second // for the cluster to decide
	answerTime = 5 * time.Second  // for a machine to hear it
	maxAsking  = 16               // machines that have not said it yet
	maxDecided = 4                // that are decided about at the same time

	failBurst  = 10              // wrong secrets of one address
	failEvery  = 6 * time.Second // after which it may send one more
	maxSources = 1024
)

// Door answers machines that have no certificate. Who says nothing holds a place
// for askTime at most, and when all are taken the oldest gives way: silent ones
// keep nobody out who speaks at once.
type Door struct {
	Desk *Desk
	Log  *slog.Logger
	Now  func() time.Time

	mu       sync.Mutex
	asking   list.List // of net.Conn, the oldest in front
	deciding chan struct{}
	fails    fails
}

// Serve takes connections, whose TLS handshakes are done, until l is closed. It
// returns when the last was answered or ctx has ended.
func (d *Door) Serve(ctx context.Context, l net.Listener) {
	d.deciding = make(chan struct{}, maxDecided)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group sync.WaitGroup
	defer group.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			cancel()
			return
		}
		slot := d.admit(conn)
		group.Go(func() {
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer stop()
			d.talk(ctx, conn, slot)
		})
	}
}

func (d *Door) admit(conn net.Conn) *list.Element {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.asking.Len() >= maxAsking {
		_ = d.asking.Remove(d.asking.Front()).(net.Conn).Close() // ends its talk
	}
	return d.asking.PushBack(conn)
}

func (d *Door) asked(slot *list.Element) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asking.Remove(slot) // does nothing when it had to give way
}

func (d *Door) talk(ctx context.Context, conn net.Conn, slot *list.Element) {
	remote := conn.RemoteAddr().String()
	_ = conn.SetDeadline(time.Now().Add(askTime)) // an error shows when reading
	a, err := readAsk(conn)
	d.asked(slot)
	if err != nil {
		d.Log.Debug("a machine without a certificate asked for nothing that is understood", "remote", remote, "error", err)
		return
	}
	out := d.decide(ctx, conn.RemoteAddr(), a)
	_ = conn.SetDeadline(time.Now().Add(answerTime)) // likewise
	if err := send(conn, out); err != nil {
		d.Log.Warn("a machine that asked for a certificate did not hear the answer", "remote", remote, "answer", out.Code, "error", err)
		return
	}
	if c, ok := conn.(*tls.Conn); ok {
		_ = c.CloseWrite() // the machine has all of it, or asks again
	}
}

func (d *Door) decide(ctx context.Context, remote net.Addr, a ask) answer {
	source := sourceOf(remote)
	if !d.may(source) {
		return answer{Code: codeLater, Text: "too many wrong tokens came from this address: wait a minute"}
	}
	// Before anything that takes time: a stranger costs a hash, and waits for
	// nobody.
	if _, err := d.Desk.Tokens.Known(a.ID, a.Secret); err != nil {
		d.failed(source)
		d.Log.Warn("a machine showed a join token that is not valid", "remote", remote.String(), "token", plainID(a.ID))
		return answer{Code: codeDenied, Text: err.Error()}
	}
	ctx, cancel := context.WithTimeout(ctx, decideTime)
	defer cancel()
	select {
	case d.deciding <- struct{}{}:
		defer func() { <-d.deciding }()
	case <-ctx.Done():
		return answer{Code: codeLater, Text: "too many machines join at the same time"}
	}
	out, err := d.Desk.enroll(ctx, remote.String(), a)
	if err != nil {
		d.Log.Warn("a machine got no certificate", "remote", remote.String(), "token", plainID(a.ID), "error", err)
	}
	return out
}

// plainID is a token's ID as a stranger gave it, for the log.
func plainID(id string) string {
	if _, err := encoding().DecodeString(id); err != nil || len(id) > 16 {
		return "none"
	}
	return id
}

// sourceOf is whom wrong secrets are counted by: an address, or an IPv6 network.
func sourceOf(a net.Addr) netip.Prefix {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Prefix{}
	}
	bits, ip := 64, ap.Addr().Unmap().WithZone("")
	if ip.Is4() {
		bits = 32
	}
	p, _ := ip.Prefix(bits) // of a valid address
	return p
}

// fails counts wrong secrets: until when each source has used its share.
type fails map[netip.Prefix]time.Time

func (d *Door) may(source netip.Prefix) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fails[source].Sub(d.Now()) < failBurst*failEvery
}

func (d *Door) failed(source netip.Prefix) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.Now()
	if d.fails == nil {
		d.fails = fails{}
	}
	if _, ok := d.fails[source]; !ok && len(d.fails) >= maxSources {
		for p, until := range d.fails {
			if !until.After(now) {
				delete(d.fails, p)
			}
		}
		if len(d.fails) >= maxSources {
			return // so many at the same time guess no sooner: the secret has 160 bits
		}
	}
	until := d.fails[source]
	if until.Before(now) {
		until = now
	}
	d.fails[source] = until.Add(failEvery)
}
