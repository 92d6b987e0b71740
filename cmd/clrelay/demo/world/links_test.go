package world

import (
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// TestLinks: a connection is known by its process, and what is sent over a cut
// link arrives when it is healed.
func TestLinks(t *testing.T) {
	l := newLinks()
	defer l.close()
	asked := make(chan uint64, 8)
	l.owner = func(inode uint64) string {
		asked <- inode
		if holds(os.Getpid(), inode) {
			return "mx1"
		}
		return ""
	}
	port, err := l.open("mx2", host(1))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", net.JoinHostPort(host(1), port))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if inode := <-asked; !holds(os.Getpid(), inode) || holds(os.Getppid(), inode) {
		t.Errorf("socket %d is not found in this process alone", inode)
	}
	l.set("mx1", true)
	if _, err := io.WriteString(c, "held"); err != nil {
		t.Fatal(err)
	}
	got := make(chan string)
	go func() {
		buf := make([]byte, 4)
		if _, err := io.ReadFull(s, buf); err != nil {
			t.Error(err)
		}
		got <- string(buf)
	}()
	if l.pass("mx1", "mx2", closedTimer()) || l.pass("mx3", "mx1", closedTimer()) || !l.pass("mx3", "mx2", nil) || !l.pass("", "mx1", nil) {
		t.Error("what is from or to mx1 is cut, and nothing else")
	}
	select {
	case text := <-got:
		t.Errorf("%q came through", text)
	default:
	}
	l.set("mx1", false)
	if text := <-got; text != "held" {
		t.Errorf("%q came", text)
	}
}

// TestFront: nobody is connected to a node that a load balancer would not take.
func TestFront(t *testing.T) {
	nodes := []*Node{{Name: "mx1"}, {Name: "mx2"}}
	for _, n := range nodes {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		n.SMTP = ln.Addr().String()
	}
	f := &front{nodes: func() []*Node { return nodes }}
	if c, err := f.dial(); err == nil {
		c.Close()
		t.Error("a node was found where none is ready")
	}
	nodes[0].look.Balanced, nodes[1].look.Balanced = true, true
	seen := map[string]int{}
	for i := range 6 {
		if i == 4 {
			nodes[0].look.Balanced = false
		}
		c, err := f.dial()
		if err != nil {
			t.Fatal(err)
		}
		seen[c.RemoteAddr().String()]++
		c.Close()
	}
	if seen[nodes[0].SMTP] != 2 || seen[nodes[1].SMTP] != 4 {
		t.Errorf("%v", seen)
	}
}

// closedTimer is a limit that is over.
func closedTimer() <-chan time.Time {
	c := make(chan time.Time)
	close(c)
	return c
}
