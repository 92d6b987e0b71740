package demo

import (
	"context"
	"os"

	"golang.org/x/term"

	"github.com/clrelay/clrelay/cmd/clrelay/demo/world"
)

// keys does what the keys say: the number of a node chooses it, a letter says
// what becomes of it.
type keys struct {
	w      *world.World
	ctx    context.Context
	quit   func()
	chosen int
}

// keyHelp is shown below the picture.
var keyHelp = []string{
	"1-5 choose a node   k kill   w kill and erase its disk   p pause   c cut off   b bring back   d drain   r resume",
	"a add a node        l let the lighthouse's server work   q quit and draw up the account",
}

// readKeys reads single keys from a terminal until the process ends. The
// function it gives puts the terminal back.
func readKeys(in *os.File, k *keys) (restore func()) {
	fd := int(in.Fd())
	old, err := term.MakeRaw(fd)
	if err != nil {
		return func() {} // no terminal: no keys, Ctrl-C ends the demo
	}
	k.choose(0)
	presses := make(chan byte, 16)
	go func() { // blocked in Read at the end; the process ends with it
		buf := make([]byte, 1)
		for {
			if n, err := in.Read(buf); err != nil || n == 0 {
				return
			}
			presses <- buf[0]
		}
	}()
	go func() {
		for {
			select {
			case <-k.ctx.Done():
				return
			case b := <-presses:
				k.press(b)
			}
		}
	}()
	return func() { _ = term.Restore(fd, old) } // the terminal may be gone
}

func (k *keys) choose(i int) {
	if i < len(k.w.Nodes()) {
		k.chosen = i
		k.w.Choose(i)
	}
}

func (k *keys) press(b byte) {
	n := k.w.Nodes()[k.chosen]
	var err error
	switch b {
	case '1', '2', '3', '4', '5':
		k.choose(int(b - '1'))
	case 'k', 'K':
		err = k.w.Kill(n, false)
	case 'w':
		err = k.w.Kill(n, true)
	case 'p':
		k.w.Pause(n)
	case 'c':
		err = k.w.Cut(n, true)
	case 'b':
		err = k.w.Bring(n)
	case 'd':
		go k.later(func() error { return k.w.Drain(k.ctx, n) })
	case 'r':
		go k.later(func() error { return k.w.Resume(k.ctx, n) })
	case 'a':
		_, err = k.w.Add()
	case 'l':
		k.w.Light()
	case 'q', 'Q', 3, 4: // Ctrl-C, Ctrl-D
		k.quit()
	}
	if err != nil {
		k.w.Say("%v", err)
	}
}

// later does what takes a while; the keys go on meanwhile.
func (k *keys) later(do func() error) {
	if err := do(); err != nil && k.ctx.Err() == nil {
		k.w.Say("%v", err)
	}
}
