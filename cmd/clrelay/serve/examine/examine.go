// Package examine answers the admin API's DoctorService: it brings package
// doctor what it judges, from this machine, this process and the other nodes.
package examine

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/delivery/source"
	"github.com/clrelay/clrelay/internal/admin"
	"github.com/clrelay/clrelay/internal/admin/fleet"
	"github.com/clrelay/clrelay/internal/config"
	"github.com/clrelay/clrelay/internal/dnsx"
	"github.com/clrelay/clrelay/internal/doctor"
	"github.com/clrelay/clrelay/internal/metrics"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

const (
	clockWait   = 3 * time.Second
	examineWait = 25 * time.Second
	sampleEvery = time.Minute
)

// Doctor is what stays of a node's examination between two of them. Close ends
// its goroutine.
type Doctor struct {
	dir   disk
	trend doctor.Trend
	done  chan struct{}
	group sync.WaitGroup
}

// New makes a Doctor that notes how the disk of a folder fills.
func New(dir string) *Doctor {
	d := &Doctor{dir: disk(dir), done: make(chan struct{})}
	d.group.Go(d.watch)
	return d
}

// Close ends it.
func (d *Doctor) Close() {
	close(d.done)
	d.group.Wait()
}

func (d *Doctor) watch() {
	t := time.NewTicker(sampleEvery)
	defer t.Stop()
	for {
		if free, _, err := d.dir.Space(); err == nil {
			d.trend.Add(time.Now(), free)
		}
		select {
		case <-t.C:
		case <-d.done:
			return
		}
	}
}

// Status is what the process says of itself.
type Status struct {
	NotReady  string
	Draining  bool
	Rejected  string
	Warnings  []string
	LogLost   uint64
	Imbalance int64
	Addresses []string // of the listeners, as they are bound
}

// Service is the DoctorService of a node. Cluster is nil on a single machine.
type Service struct {
	adminv1.UnimplementedDoctorServiceServer
	Node     string
	Doctor   *Doctor
	Started  time.Time
	Settings func() (*config.Node, *config.Cluster)
	Status   func() Status
	Resolver *dnsx.Resolver
	Spool    *metrics.Spool
	Cluster  admin.Cluster
	Fleet    fleet.Fleet
	Files    uint64 // descriptors besides connections
}

// Clock is of DoctorService.
func (s *Service) Clock(context.Context, *adminv1.ClockRequest) (*adminv1.ClockResponse, error) {
	now := time.Now()
	return &adminv1.ClockResponse{Now: timestamppb.New(now), Uptime: durationpb.New(now.Sub(s.Started))}, nil
}

// Examine is of DoctorService.
func (s *Service) Examine(ctx context.Context, req *adminv1.ExamineRequest) (*adminv1.ExamineResponse, error) {
	if req.GetLocal() {
		return &adminv1.ExamineResponse{Findings: s.own(ctx, nil)}, nil
	}
	peers := s.Fleet.Others(ctx, false)
	var cluster *admin.ClusterStatus
	if s.Cluster != nil {
		st, err := s.Cluster.Status(ctx)
		if err != nil {
			return nil, err
		}
		cluster = &st
	}
	asked := peers
	if n := req.GetNode(); n != "" {
		asked = slices.DeleteFunc(slices.Clone(peers), func(p fleet.Peer) bool { return p.Name != n })
		if len(asked) == 0 && n != s.Node {
			return nil, admin.ErrNoNode
		}
	}
	out := &adminv1.ExamineResponse{}
	if cluster != nil && req.GetNode() == "" {
		judged := clusterOf(cluster)
		judged.Clocks = s.clocks(ctx, peers)
		for _, f := range judged.Examine() {
			out.Findings = append(out.Findings, finding("", &f))
		}
	}
	answers, err := fleet.AskWhile(ctx, asked, examineWait, func(ctx context.Context, p fleet.Peer) (*adminv1.ExamineResponse, error) {
		return adminv1.NewDoctorServiceClient(p.Conn).Examine(ctx, &adminv1.ExamineRequest{Local: true})
	}, func(ctx context.Context) error {
		if n := req.GetNode(); n == "" || n == s.Node {
			out.Findings = append(out.Findings, s.own(ctx, cluster)...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	out.MissingNodes = fleet.Each(answers, func(r *adminv1.ExamineResponse) error {
		out.Findings = append(out.Findings, r.GetFindings()...)
		return nil
	})
	return out, nil
}

// clocks asks all nodes for the time, at the same moment.
func (s *Service) clocks(ctx context.Context, peers []fleet.Peer) (out []doctor.ClockOf) {
	for _, a := range fleet.Ask(ctx, peers, clockWait, func(ctx context.Context, p fleet.Peer) (best doctor.ClockOf, err error) {
		for i := range 3 { // the shortest way is the best measure
			asked := time.Now()
			res, err := adminv1.NewDoctorServiceClient(p.Conn).Clock(ctx, &adminv1.ClockRequest{})
			if err != nil {
				return best, err
			}
			c := doctor.MeasureClock(p.Name, asked, res.GetNow().AsTime(), asked.Add(time.Since(asked)))
			if i == 0 || c.Unsure < best.Unsure {
				best = c
			}
		}
		return best, nil
	}) {
		if a.Err == nil { // one that does not answer shows as silent
			out = append(out, a.Got)
		}
	}
	return out
}

func clusterOf(st *admin.ClusterStatus) *doctor.Cluster {
	c := &doctor.Cluster{Leader: st.Leader, Quorum: st.Quorum, Copies: st.Copies, UnderReplicated: st.UnderReplicated, Lost: st.Lost, Level: st.Level}
	for _, n := range st.Nodes {
		c.Members = append(c.Members, doctor.Member{Name: n.Name, State: n.State, Version: n.Version, Voter: n.Voter, Level: n.Level})
	}
	return c
}

// own examines this node.
func (s *Service) own(ctx context.Context, cluster *admin.ClusterStatus) (out []*adminv1.Finding) {
	if cluster == nil && s.Cluster != nil {
		if st, err := s.Cluster.Status(ctx); err == nil { // without it the others are left alone
			cluster = &st
		}
	}
	n := doctor.Node{
		Disk: s.Doctor.dir, Clock: clock{}, DNS: resolver{s.Resolver}, Net: network{}, Trend: &s.Doctor.trend, Now: time.Now,
		Facts: func() doctor.Facts { return s.facts(cluster) },
	}
	for _, f := range n.Examine(ctx) {
		out = append(out, finding(s.Node, &f))
	}
	return out
}

func finding(node string, f *doctor.Finding) *adminv1.Finding {
	level := map[doctor.Level]adminv1.FindingLevel{
		doctor.OK: adminv1.FindingLevel_FINDING_LEVEL_OK, doctor.Warn: adminv1.FindingLevel_FINDING_LEVEL_WARN,
		doctor.Fail: adminv1.FindingLevel_FINDING_LEVEL_FAIL, doctor.Unknown: adminv1.FindingLevel_FINDING_LEVEL_UNKNOWN,
	}[f.Level]
	return &adminv1.Finding{Level: level, Node: node, Check: f.Check, Text: f.Text, Fix: f.Fix}
}

// facts reads what is there to be read.
func (s *Service) facts(cluster *admin.ClusterStatus) doctor.Facts {
	node, shared := s.Settings()
	st := s.Status()
	f := doctor.Facts{
		NotReady: st.NotReady, Draining: st.Draining, Rejected: st.Rejected, Warnings: st.Warnings, LogLost: st.LogLost, Imbalance: st.Imbalance,
		Reserve: uint64(shared.Spool.Reserve), Files: files(), Memory: memory(),
		FilesNeeded: uint64(shared.Receive.MaxConnections+shared.Deliver.MaxConnections) + s.Files,
		FsyncCount:  s.Spool.FsyncDuration.Count(), FsyncP50: s.Spool.FsyncDuration.Quantile(0.5), FsyncP99: s.Spool.FsyncDuration.Quantile(0.99),
		Kernel: kernel(shared.Deliver.MaxConnections),
	}
	for i, addr := range st.Addresses {
		at, err := netip.ParseAddrPort(addr)
		if err != nil || i >= len(node.SMTP) {
			continue
		}
		l := &node.SMTP[i]
		to := own(at)
		f.Listeners = append(f.Listeners, doctor.Listener{
			Addr: to, Implicit: l.TLS != nil && l.TLS.Implicit,
			Proxy: slices.ContainsFunc(config.Prefixes(l.ProxyFrom), func(p netip.Prefix) bool { return p.Contains(netip.MustParseAddrPort(to).Addr()) }),
		})
		if l.TLS != nil {
			f.Certs = append(f.Certs, certificate("listener "+addr, string(l.TLS.Cert), string(node.Hostname), "put a new certificate into that file, then: systemctl reload clrelay"))
		}
	}
	for _, o := range node.Sources {
		s := source.Source{Name: string(o.Name), Addr: o.Address.Addr, Hello: string(cmp.Or(o.Hostname, node.Hostname))}
		f.Sources = append(f.Sources, doctor.Source{Name: s.Name, Addr: s.Addr, Hello: s.Hello, Err: s.Check()})
	}
	for _, r := range shared.Routes {
		for _, h := range r.Action.Smarthost {
			if addr := h.String(); !slices.Contains(f.Smarthosts, addr) {
				f.Smarthosts = append(f.Smarthosts, addr)
			}
		}
	}
	if node.Cluster != nil {
		dir := string(node.TLSDir)
		f.Certs = append(f.Certs,
			certificate("node", filepath.Join(dir, "node.crt"), "", "clrelay cert create-node --name "+s.Node+", put it into tls_dir, then: systemctl reload clrelay"),
			certificate("cluster authority", filepath.Join(dir, "ca.crt"), "", "make a new authority, and let all nodes trust both for as long as it takes to renew their certificates"))
	}
	if cluster != nil {
		f.Peers = s.peers(cluster)
	}
	return f
}

// peers are the SMTP ports of the other nodes, where the cluster says how this
// one reaches them: a listener for all addresses is at that of the cluster
// port; one on loopback is nobody's business.
func (s *Service) peers(st *admin.ClusterStatus) (out []doctor.Peer) {
	for _, n := range st.Nodes {
		if n.Name == s.Node || n.State != admin.NodeAlive {
			continue
		}
		host, _, err := net.SplitHostPort(n.Addr)
		if err != nil {
			continue
		}
		for _, addr := range n.SMTP {
			at, err := netip.ParseAddrPort(addr)
			switch {
			case err != nil:
				continue
			case at.Addr().IsLoopback() && !isLoopback(host):
				continue
			case at.Addr().IsUnspecified():
				addr = net.JoinHostPort(host, portOf(addr))
			}
			out = append(out, doctor.Peer{Node: n.Name, Addr: addr})
		}
	}
	return out
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr) // it was parsed before
	return port
}

var errPEM = errors.New("no certificate in it")

// certificate reads the first one of a file. It need not be one of the
// cluster's.
func certificate(what, file, name, renew string) doctor.Cert {
	c := doctor.Cert{What: what, File: file, Renew: renew}
	text, err := os.ReadFile(file)
	if err != nil {
		c.Err = err
		return c
	}
	block, _ := pem.Decode(text)
	if block == nil {
		c.Err = errPEM
		return c
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		c.Err = err
		return c
	}
	c.NotBefore, c.NotAfter = leaf.NotBefore, leaf.NotAfter
	if name != "" && leaf.VerifyHostname(name) != nil {
		c.BadName = name
	}
	return c
}
