package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/clrelay/clrelay/test/disk"
	"github.com/clrelay/clrelay/test/peers"
	"github.com/clrelay/clrelay/test/relayproc"
)

// clusterText is the cluster.yaml of the fleet: all mail to the sink. A retry
// comes soon, so that what is measured is the cluster and not the schedule.
const clusterText = `senders:
  - {name: clients, networks: [127.0.0.0/8, 10.99.0.0/16]}
receive: {max_connections: 1000, per_client_connections: 1000}
routes:
  - {match: {}, action: {smarthost: ["%s"]}}
queue: {retry: [1s], expire: 1h}
%s`

// diskSize is how large a node's own disk is.
const diskSize = 3 << 30

// Options say what is hurt, and how much.
type Options struct {
	Binary string
	Dir    string // for everything; it is kept by whoever made it
	Nodes  int    // 3 if zero
	// Loopback leaves out the namespaces, Plain the disks of their own.
	Loopback, Plain bool
	// Log is told what happens.
	Log func(format string, args ...any)

	more string          // of cluster.yaml
	sink *peers.Sink     // nil: one that is slow and sometimes refuses
	load []time.Duration // between two messages of a client, by node; nil: the same for all
}

// fleet is a cluster under load before one sink, and the books.
type fleet struct {
	o       Options
	cluster *relayproc.Cluster
	lab     *lab         // nil: on loopback
	disks   []*disk.Disk // nil: none of their own
	sink    *peers.Sink
	away    atomic.Bool // the sink takes nothing
	load    *load
	counted *counters
	marks   []int64 // octets of each node's log that were read

	mu    sync.Mutex
	down  map[int]bool // nodes that are meant not to run
	ended []string     // lives that ended by themselves

	stop context.CancelFunc
	wg   sync.WaitGroup
}

// open starts a fleet and its clients.
func open(ctx context.Context, o Options) (f *fleet, err error) {
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	f = &fleet{o: o, down: map[int]bool{}, marks: make([]int64, o.Nodes)}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.close())
		}
	}()
	if err := f.surroundings(); err != nil {
		return f, err
	}
	host := "127.0.0.1"
	if f.lab != nil {
		host = f.lab.outside()
	}
	if f.sink = o.sink; f.sink == nil {
		f.sink = &peers.Sink{Hash: true, Delay: 5 * time.Millisecond, Seen: func(int64, []string) string {
			if f.away.Load() {
				return "451 4.3.2 Not now"
			}
			return ""
		}}
	}
	if err := f.sink.Listen(host + ":0"); err != nil {
		return f, err
	}
	co := relayproc.ClusterOptions{Binary: o.Binary, Dir: o.Dir, Nodes: o.Nodes, Cluster: f.text(o.more)}
	if f.lab != nil {
		co.Host, co.Wrap = f.lab.host, f.lab.wrap
	}
	if f.disks != nil {
		co.Data = func(name string) string {
			var i int
			if _, err := fmt.Sscanf(name, "mx%d", &i); err != nil {
				panic(err)
			}
			return filepath.Join(f.disks[i-1].Dir, "data")
		}
	}
	if f.cluster, err = relayproc.NewCluster(co); err != nil {
		return f, err
	}
	f.counted = newCounters(f.cluster.Nodes)
	if err := f.cluster.Start(ctx); err != nil {
		return f, err
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	f.stop = stop
	f.wg.Go(func() { f.counted.run(background) })
	f.wg.Go(func() { f.supervise(background) })
	f.load = &load{sessions: 4, every: o.load, text: peers.Source{From: "source@load.test", Size: 4 << 10, Body: peers.RandomBody}}
	for _, r := range f.cluster.Nodes {
		f.load.addrs = append(f.load.addrs, r.SMTP)
		if o.load == nil {
			f.load.every = append(f.load.every, 80*time.Millisecond)
		}
	}
	f.load.start()
	return f, nil
}

// text is the cluster.yaml of the fleet, with more sections.
func (f *fleet) text(more string) string { return fmt.Sprintf(clusterText, f.sink.Addr(), more) }

// surroundings makes the namespaces and the disks, where the machine has them.
func (f *fleet) surroundings() (err error) {
	if !f.o.Loopback {
		if f.lab, err = newLab(f.o.Nodes); err != nil && !errors.Is(err, errNoLab) {
			return err
		}
		if err != nil {
			f.o.Log("on loopback: %v", err)
		}
	}
	if f.o.Plain {
		return nil
	}
	for i := range f.o.Nodes {
		dir := filepath.Join(f.o.Dir, fmt.Sprintf("disk%d", i+1))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		d, err := disk.New(dir, diskSize)
		if errors.Is(err, disk.ErrMissing) && i == 0 {
			f.o.Log("no disks of their own: %v", err)
			return nil
		}
		if err != nil {
			return err
		}
		f.disks = append(f.disks, d)
	}
	return nil
}

// close ends all of it.
func (f *fleet) close() error {
	var errs []error
	if f.load != nil {
		f.load.end()
	}
	if f.stop != nil {
		f.stop()
		f.wg.Wait()
	}
	if f.cluster != nil {
		for _, r := range f.cluster.Nodes {
			_ = r.Signal(syscall.SIGCONT) // it may have ended
		}
		errs = append(errs, f.cluster.Stop())
	}
	if f.sink != nil {
		f.sink.Close()
	}
	for _, d := range f.disks {
		errs = append(errs, d.Unmount())
	}
	if f.lab != nil {
		errs = append(errs, f.lab.close())
	}
	return errors.Join(errs...)
}

// supervise starts nodes again that ended by themselves, as systemd would.
func (f *fleet) supervise(ctx context.Context) {
	t := time.NewTicker(200 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		f.mu.Lock()
		for i, r := range f.cluster.Nodes {
			select {
			case <-r.Exited():
			default:
				continue
			}
			if f.down[i] {
				continue
			}
			f.ended = append(f.ended, fmt.Sprintf("%s ended by itself with code %d: %s", name(i), r.ExitCode(), lastError(r)))
			f.counted.rest(i)
			if err := r.Launch(); err != nil {
				f.o.Log("starting %s: %v", name(i), err)
			}
		}
		f.mu.Unlock()
	}
}

// lastError is the last line of a node's log that says why it ended.
func lastError(r *relayproc.Relay) string {
	lines := strings.Split(r.Log(), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if strings.Contains(lines[i], "level=ERROR") || strings.Contains(lines[i], "panic") || strings.Contains(lines[i], "fatal") {
			return lines[i]
		}
	}
	return "no word"
}

func name(i int) string { return fmt.Sprintf("mx%d", i+1) }

// kill ends a node at once; it stays down until start.
func (f *fleet) kill(i int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down[i] {
		return
	}
	f.down[i] = true
	f.counted.last(i)
	f.cluster.Nodes[i].Kill()
	f.counted.rest(i)
}

// start runs a node that was killed.
func (f *fleet) start(i int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.down[i] {
		return nil
	}
	delete(f.down, i)
	return f.cluster.Nodes[i].Launch()
}

// running lists the nodes that are meant to run.
func (f *fleet) running() []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []int
	for i := range f.cluster.Nodes {
		if !f.down[i] {
			out = append(out, i)
		}
	}
	return out
}
