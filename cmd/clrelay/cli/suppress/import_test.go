package suppress

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

// endless gives the same octet for ever, and counts how much was read.
type endless struct {
	octet byte
	read  int
}

func (e *endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = e.octet
	}
	e.read += len(b)
	return len(b), nil
}

// A file that is no list ends soon, and costs little.
func TestHostileFiles(t *testing.T) {
	for _, octet := range []byte{'a', 0, '"', ',', '{', '@', 0xff} {
		in := &endless{octet: octet}
		err := (&reading{now: time.Now(), most: 5000}).all(io.MultiReader(strings.NewReader("jane@example.org\n"), in))
		if err == nil || !strings.Contains(err.Error(), "line 2") || in.read > 4*maxLine {
			t.Errorf("%q for ever: %v after %d octets", octet, err, in.read)
		}
	}
	r := &reading{now: time.Now(), most: 5000}
	err := r.all(strings.NewReader("address\n" + strings.Repeat("\x00\x01\xfe\n{\"address\":1}\n\",\n", 1000)))
	if err != nil || len(r.list) > 0 || r.errs != 3000 || len(r.wrong) != maxErrors {
		t.Errorf("a binary file: %v, %d taken, %d wrong, %d of them shown", err, len(r.list), r.errs, len(r.wrong))
	}
}

func TestTooManyEntries(t *testing.T) {
	r := &reading{now: time.Now(), most: 5000}
	read, write := io.Pipe()
	go func() {
		for i := 0; ; i++ {
			if _, err := fmt.Fprintf(write, "u%d@example.org\n", i); err != nil {
				return
			}
		}
	}()
	err := r.all(read)
	read.Close()
	if err == nil || !strings.Contains(err.Error(), "5,000 entries") {
		t.Errorf("without an end: %v", err)
	}
}

func FuzzReading(f *testing.F) {
	f.Add("jane@example.org\n# x\n{\"address\":\"a@b\"}\n")
	f.Add("sender,address,expires\n,\"a@b\",2040-01-01\n")
	f.Fuzz(func(t *testing.T, s string) {
		r := &reading{now: time.Unix(1e9, 0), most: 5000}
		if r.all(strings.NewReader(s)) == nil && len(r.list)+r.errs > strings.Count(s, "\n")+1 {
			t.Errorf("%d entries and %d errors", len(r.list), r.errs)
		}
	})
}
