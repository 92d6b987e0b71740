package peers

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Hop is a next hop that does as it is told and keeps what it got, octet by
// octet. It is for few messages: a Sink is for many.
type Hop struct {
	// Offer is what EHLO lists; nil: PIPELINING and 8BITMIME. STARTTLS comes
	// by itself where there is a TLS.
	Offer []string
	// Answer may give another reply than the usual one to a command line, to
	// "" (the banner) and to "." (the end of a body). "" means the usual one,
	// Hangup closes the connection. It may block; every connection asks from a
	// goroutine of its own.
	Answer func(line string) string
	// TLS is for STARTTLS.
	TLS *tls.Config

	ln net.Listener
	wg sync.WaitGroup

	mu     sync.Mutex
	closed bool
	live   map[net.Conn]bool
	conns  int
	mails  []Mail
	lines  []string
}

// Hangup is an Answer that closes the connection.
const Hangup = "hangup"

// Mail is a message as a Hop got it.
type Mail struct {
	From string   // the argument of MAIL FROM, parameters included
	To   []string // the arguments of the RCPT TO that were answered 250
	Wire []byte   // between 354 and the 250, dots and final dot included; with BDAT the chunks
	Data []byte   // the content
	TLS  bool
	At   time.Time

	Client string // IP address of the client
	Hello  string // what it said in EHLO
	Conn   int    // number of the connection, from 1
}

// Rcpts gives the recipients' addresses, without "<", ">" and parameters.
func (m *Mail) Rcpts() []string {
	var out []string
	for _, to := range m.To {
		out = append(out, pathOf(to))
	}
	return out
}

// Sender gives the sender's address, "" for the null reverse-path.
func (m *Mail) Sender() string { return pathOf(m.From) }

func pathOf(arg string) string {
	addr, _, _ := strings.Cut(strings.TrimPrefix(arg, "<"), ">")
	return addr
}

// Listen starts the hop on addr ("127.0.0.1:0").
func (h *Hop) Listen(addr string) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("peers: hop: %w", err)
	}
	h.ln, h.live = ln, map[net.Conn]bool{}
	h.wg.Go(h.accept)
	return nil
}

// Addr is where the hop listens.
func (h *Hop) Addr() string { return h.ln.Addr().String() }

// Close ends the hop and all its connections. An Answer that blocks has to be
// let go before.
func (h *Hop) Close() {
	h.ln.Close()
	h.mu.Lock()
	h.closed = true
	for c := range h.live {
		c.Close()
	}
	h.mu.Unlock()
	h.wg.Wait()
}

// Mails gives what was taken so far.
func (h *Hop) Mails() []Mail {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]Mail(nil), h.mails...)
}

// Lines gives all the command lines so far, of all connections.
func (h *Hop) Lines() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.lines...)
}

// Forget drops the messages and lines so far.
func (h *Hop) Forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mails, h.lines = nil, nil
}

// Conns is the number of connections so far.
func (h *Hop) Conns() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.conns
}

func (h *Hop) accept() {
	for {
		c, err := h.ln.Accept()
		if err != nil {
			return
		}
		h.mu.Lock()
		h.conns++
		if h.closed {
			h.mu.Unlock()
			c.Close()
			return
		}
		h.live[c] = true
		number := h.conns
		h.mu.Unlock()
		h.wg.Go(func() {
			hc := &hopConn{hop: h, conn: c, number: number, r: bufio.NewReaderSize(c, 64<<10)}
			_ = hc.serve() // the client is gone, and that is all it tells
			c.Close()
			h.mu.Lock()
			delete(h.live, c)
			h.mu.Unlock()
		})
	}
}

type hopConn struct {
	hop  *Hop
	conn net.Conn
	r    *bufio.Reader
	tls  bool
	mail Mail

	number int
	hello  string
}

var errHangup = errors.New("hangup")

// answer sends the reply to a line and tells whether it was a good one.
func (c *hopConn) answer(line, usual string) (bool, error) {
	reply := usual
	if c.hop.Answer != nil {
		if other := c.hop.Answer(line); other != "" {
			reply = other
		}
	}
	if reply == Hangup {
		return false, errHangup
	}
	_, err := io.WriteString(c.conn, strings.ReplaceAll(reply, "\n", "\r\n")+"\r\n")
	return reply[0] < '4', err
}

func (c *hopConn) serve() error {
	if ok, err := c.answer("", "220 hop.test ESMTP"); err != nil || !ok {
		return err
	}
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return err
		}
		line = strings.TrimRight(line, "\r\n")
		c.hop.mu.Lock()
		c.hop.lines = append(c.hop.lines, line)
		c.hop.mu.Unlock()
		if err := c.command(line); err != nil {
			return err
		}
	}
}

func (c *hopConn) command(line string) error {
	verb, arg, _ := strings.Cut(line, " ")
	switch strings.ToUpper(verb) {
	case "EHLO", "LHLO":
		c.hello = arg
		_, err := c.answer(line, c.offer())
		return err
	case "MAIL":
		ok, err := c.answer(line, "250 2.1.0 Ok")
		if ok {
			c.mail = Mail{From: arg[len("FROM:"):], TLS: c.tls}
		}
		return err
	case "RCPT":
		ok, err := c.answer(line, "250 2.1.5 Ok")
		if ok {
			c.mail.To = append(c.mail.To, arg[len("TO:"):])
		}
		return err
	case "DATA":
		if ok, err := c.answer(line, c.dataReply()); err != nil || !ok {
			return err
		}
		return c.data()
	case "BDAT":
		return c.bdat(arg)
	case "STARTTLS":
		return c.startTLS(line)
	case "RSET":
		c.mail = Mail{}
		_, err := c.answer(line, "250 2.0.0 Ok")
		return err
	case "QUIT":
		_, err := c.answer(line, "221 2.0.0 Bye")
		if err == nil {
			err = io.EOF
		}
		return err
	case "HELO", "NOOP":
		_, err := c.answer(line, "250 2.0.0 Ok")
		return err
	}
	_, err := c.answer(line, "500 5.5.1 What?")
	return err
}

func (c *hopConn) dataReply() string {
	if len(c.mail.To) == 0 {
		return "554 5.5.1 No valid recipients"
	}
	return "354 Go"
}

func (c *hopConn) offer() string {
	offer := c.hop.Offer
	if offer == nil {
		offer = []string{"PIPELINING", "8BITMIME"}
	}
	if c.hop.TLS != nil && !c.tls {
		offer = append([]string{"STARTTLS"}, offer...)
	}
	if len(offer) == 0 {
		return "250 hop.test"
	}
	last := len(offer) - 1
	var b strings.Builder
	b.WriteString("250-hop.test\n")
	for _, o := range offer[:last] {
		b.WriteString("250-" + o + "\n")
	}
	return b.String() + "250 " + offer[last]
}

// data keeps a body whole and looks for its end where RFC 5321 4.1.1.4 has
// it, and nowhere else.
func (c *hopConn) data() error {
	var wire []byte
	for !bytes.HasSuffix(wire, endOfData) && !bytes.Equal(wire, endOfData[2:]) {
		line, err := c.r.ReadSlice('\n')
		wire = append(wire, line...)
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
	c.mail.Wire = wire
	text := bytes.TrimSuffix(wire, endOfData[2:])
	text = bytes.ReplaceAll(text, []byte("\r\n."), []byte("\r\n"))
	c.mail.Data = bytes.TrimPrefix(text, []byte("."))
	return c.finish()
}

func (c *hopConn) bdat(arg string) error {
	size, last, _ := strings.Cut(arg, " ")
	n, err := strconv.Atoi(size)
	if err != nil {
		return err
	}
	chunk := make([]byte, n)
	if _, err := io.ReadFull(c.r, chunk); err != nil {
		return err
	}
	c.mail.Wire = append(c.mail.Wire, chunk...)
	c.mail.Data = c.mail.Wire
	if strings.EqualFold(last, "LAST") {
		return c.finish()
	}
	_, err = c.answer("BDAT "+arg, "250 2.0.0 Ok")
	return err
}

func (c *hopConn) finish() error {
	m := c.mail
	m.At, m.Hello, m.Conn = time.Now(), c.hello, c.number
	m.Client, _, _ = net.SplitHostPort(c.conn.RemoteAddr().String())
	c.mail = Mail{}
	// What was answered 250 is kept before the answer can be seen.
	reply := "250 2.0.0 Ok"
	if c.hop.Answer != nil {
		if other := c.hop.Answer("."); other != "" {
			reply = other
		}
	}
	if reply == Hangup {
		return errHangup
	}
	if reply[0] == '2' {
		c.hop.mu.Lock()
		c.hop.mails = append(c.hop.mails, m)
		c.hop.mu.Unlock()
	}
	_, err := io.WriteString(c.conn, reply+"\r\n")
	return err
}

func (c *hopConn) startTLS(line string) error {
	if c.hop.TLS == nil || c.tls {
		_, err := c.answer(line, "502 5.5.1 No")
		return err
	}
	if ok, err := c.answer(line, "220 2.0.0 Go"); err != nil || !ok {
		return err
	}
	conn := tls.Server(c.conn, c.hop.TLS)
	if err := conn.Handshake(); err != nil {
		return err
	}
	c.conn, c.r, c.tls = conn, bufio.NewReaderSize(conn, 64<<10), true
	return nil
}

// StripTrace takes the Received lines off that stand in front of a message.
func StripTrace(data []byte) []byte {
	for bytes.HasPrefix(data, []byte("Received:")) {
		for {
			i := bytes.Index(data, []byte("\r\n"))
			if i < 0 {
				return nil
			}
			data = data[i+2:]
			if len(data) == 0 || data[0] != '\t' && data[0] != ' ' {
				break
			}
		}
	}
	return data
}
