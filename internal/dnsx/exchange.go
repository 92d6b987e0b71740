package dnsx

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/miekg/dns"
)

// udpSize is the largest answer that is asked for over UDP (RFC 6891 6.2.5):
// what passes any path without fragments.
const udpSize = 1232

// maxStray bounds the packets that answer something else before a try ends.
const maxStray = 64

// exchange asks one server one question, over UDP and again over TCP when the
// answer does not fit. The message it returns belongs to the question.
func (r *Resolver) exchange(ctx context.Context, sv *server, q question) (*dns.Msg, error) {
	edns := true
	m, err := r.try(ctx, sv, q, "udp", edns)
	if err == nil && m.Rcode == dns.RcodeFormatError {
		edns = false // RFC 6891 7: it knows no EDNS
		m, err = r.try(ctx, sv, q, "udp", edns)
	}
	if errors.Is(err, errMalformed) || err == nil && m.Truncated {
		m, err = r.try(ctx, sv, q, "tcp", edns)
		if err == nil && m.Truncated {
			err = errMalformed
		}
	}
	return m, err
}

// try sends the question once and waits for its answer. A socket of its own
// gives each try a port that cannot be foreseen.
func (r *Resolver) try(ctx context.Context, sv *server, q question, network string, edns bool) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	query := &dns.Msg{}
	query.SetQuestion(dns.Fqdn(q.name), uint16(q.typ))
	query.AuthenticatedData = true // RFC 6840 5.7: we want to know
	if edns {
		query.SetEdns0(udpSize, sv.trusted)
	}
	wire, err := query.Pack()
	if err != nil {
		return nil, fmt.Errorf("packing the question: %w", err)
	}
	conn, err := r.dial(ctx, network, sv.addr.String())
	if err != nil {
		return nil, timeoutOr(ctx, err)
	}
	defer conn.Close() //nolint:errcheck // everything was read
	// The deadline of a context is also its cancellation: neither is waited for.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var m *dns.Msg
	if network == "tcp" {
		m, err = askTCP(conn, wire)
	} else {
		m, err = askUDP(conn, wire)
	}
	if err != nil {
		return nil, timeoutOr(ctx, err)
	}
	return m, nil
}

// timeoutOr replaces what a socket says after the context ended.
func timeoutOr(ctx context.Context, err error) error {
	switch ctx.Err() {
	case nil:
		return err
	case context.DeadlineExceeded:
		return errNoAnswer
	}
	return ctx.Err()
}

// errNoAnswer is a try that timed out.
var errNoAnswer = errors.New("no answer")

func askUDP(conn net.Conn, query []byte) (*dns.Msg, error) {
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	buf := make([]byte, 4096) // some servers send more than they were asked for
	for range maxStray {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		m, err := parse(buf[:n], query)
		if errors.Is(err, errStray) {
			continue // not ours: a late answer, or a forged one
		}
		return m, err
	}
	return nil, errStray
}

func askTCP(conn net.Conn, query []byte) (*dns.Msg, error) {
	// RFC 7766 8: length and message in one write.
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, err
	}
	buf := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(conn, buf); err != nil {
		return nil, err
	}
	return parse(buf, query)
}

// headerLen is the length of a message's header (RFC 1035 4.1.1).
const headerLen = 12

// parse reads a packet that came for a query. It is errStray unless ID and
// question are those of the query, and errMalformed when they are and the rest
// cannot be read.
func parse(packet, query []byte) (*dns.Msg, error) {
	if len(packet) < headerLen || packet[0] != query[0] || packet[1] != query[1] || packet[2]&0xf8 != 0x80 {
		return nil, errStray // too short, another ID, no response, or no answer to a QUERY
	}
	questions := binary.BigEndian.Uint16(packet[4:])
	if rcode := packet[3] & 0x0f; questions == 0 && rcode == dns.RcodeFormatError {
		// A server that did not understand need not repeat the question.
		return &dns.Msg{MsgHdr: dns.MsgHdr{Response: true, Rcode: dns.RcodeFormatError}}, nil
	}
	if questions != 1 || !sameQuestion(packet[headerLen:], query[headerLen:]) {
		return nil, errStray
	}
	m := &dns.Msg{}
	if packet[2]&0x02 != 0 { // TC: what is there is of no use (RFC 2181 9)
		m.Truncated = true
		return m, nil
	}
	if err := m.Unpack(packet); err != nil {
		return nil, fmt.Errorf("%w: %w", errMalformed, err)
	}
	// Unpack takes a message that ends before all its records came.
	for i, n := range []int{len(m.Question), len(m.Answer), len(m.Ns), len(m.Extra)} {
		if int(binary.BigEndian.Uint16(packet[4+2*i:])) != n {
			return nil, fmt.Errorf("%w: records are missing", errMalformed)
		}
	}
	return m, nil
}

// sameQuestion compares the first question of two messages, behind their
// headers. That of the query is written out, without compression, and so is
// the first name of any message that repeats it.
func sameQuestion(got, want []byte) bool {
	end := 0
	for end < len(want) && want[end] != 0 {
		end += int(want[end]) + 1
	}
	end += 5 // the root's octet, type, class
	if end > len(want) || end > len(got) {
		return false
	}
	for i := range end {
		g, w := got[i], want[i]
		if i < end-5 && 'A' <= g && g <= 'Z' {
			g += 'a' - 'A' // the query is in lower case
		}
		if g != w {
			return false
		}
	}
	return true
}
