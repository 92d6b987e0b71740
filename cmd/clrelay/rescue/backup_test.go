package rescue

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// sender sends what it has, and then breaks if it is to.
type sender struct {
	adminv1.UnimplementedRescueServiceServer
	head   *adminv1.BackupHead
	pieces [][]byte
	broken bool // the connection breaks once the client has all that
}

func (s *sender) Backup(_ *adminv1.BackupRequest, stream adminv1.RescueService_BackupServer) error {
	if err := stream.Send(&adminv1.BackupResponse{Head: s.head}); err != nil {
		return err
	}
	for _, p := range s.pieces {
		if err := stream.Send(&adminv1.BackupResponse{Data: p}); err != nil {
			return err
		}
	}
	if s.broken {
		<-stream.Context().Done()
	}
	return nil
}

// watched tells when a client has received so many messages.
type watched struct {
	grpc.ClientStream
	left int
	then func()
}

func (w *watched) RecvMsg(m any) error {
	err := w.ClientStream.RecvMsg(m)
	if w.left--; w.left == 0 {
		w.then()
	}
	return err
}

// run backs up from the sender and gives what is said.
func (s *sender) run(t *testing.T, file string) (string, error) {
	t.Helper()
	gs := grpc.NewServer()
	adminv1.RegisterRescueServiceServer(gs, s)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- gs.Serve(l) }()
	defer func() {
		gs.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	watch := func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, stream grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		cs, err := stream(ctx, desc, cc, method, opts...)
		if err == nil && s.broken {
			cs = &watched{cs, 1 + len(s.pieces), gs.Stop}
		}
		return cs, err
	}
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithStreamInterceptor(watch))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var said bytes.Buffer
	with := func(f func(conn grpc.ClientConnInterface) error) error { return f(conn) }
	tool := tools{Console: &cmdline.Console{Stdout: &said, Stderr: &said, Format: cmdline.FormatTable}, with: with}
	err = tool.online(context.Background(), file)
	return said.String(), err
}

// A backup is whole, or there is none.
func TestOnlineBackup(t *testing.T) {
	s := fsm.New()
	register, err := fsm.Encode(fsm.Register{Node: "mx2", Store: fsm.StoreID{1}, Nonce: [16]byte{1}, Info: fsm.NodeInfo{Features: fsm.KnownLevel}})
	if err != nil {
		t.Fatal(err)
	}
	s.Apply(41, register)
	image := s.Snapshot()
	head := func(of []byte) *adminv1.BackupHead {
		sum := sha256.Sum256(of)
		return &adminv1.BackupHead{Node: "mx2", Leader: "mx1", Quorum: true, Generation: 1, Term: 3, Index: 41, Nodes: []string{"mx1", "mx2"}, Size: int64(len(of)), Sha256: sum[:]}
	}
	alone := head(image)
	alone.Quorum, alone.Leader = false, ""
	for name, c := range map[string]struct {
		sender
		said string
		code int // 0: it is well
	}{
		"well":           {sender{head: head(image), pieces: [][]byte{image[:30], image[30:]}}, "mx2 at index 41 (generation 1, term 3)", 0},
		"follower":       {sender{head: head(image), pieces: [][]byte{image}}, "mx1 leads; mx2 follows it", 0},
		"no quorum":      {sender{head: alone, pieces: [][]byte{image}}, "mx2 sees no quorum", 0},
		"broken":         {sender{head: head(image), pieces: [][]byte{image[:30]}, broken: true}, "broke after 30 of", cmdline.ExitUnreachable},
		"ends early":     {sender{head: head(image), pieces: [][]byte{image[:30]}}, "broke after 30 of", cmdline.ExitUnreachable},
		"too much":       {sender{head: head(image), pieces: [][]byte{image, image}}, "is not what mx2 sent", cmdline.ExitFailed},
		"altered":        {sender{head: head(image), pieces: [][]byte{bytes.Repeat([]byte("x"), len(image))}}, "is not what mx2 sent", cmdline.ExitFailed},
		"not a backup":   {sender{head: head([]byte("x")), pieces: [][]byte{[]byte("x")}}, "cannot be restored", cmdline.ExitFailed},
		"no head at all": {sender{head: nil, pieces: nil}, "is not what", cmdline.ExitFailed},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "backup")
			said, err := c.run(t, file)
			if err != nil {
				said += err.Error()
			}
			code := 0
			var exit *cmdline.ExitError
			if errors.As(err, &exit) {
				code = exit.Code
			} else if err != nil {
				code = cmdline.ExitFailed
			}
			if code != c.code || !strings.Contains(said, c.said) {
				t.Errorf("%d, %s", code, said)
			}
			left, err := filepath.Glob(file + "*")
			if err != nil {
				t.Fatal(err)
			}
			if c.code != 0 {
				if len(left) > 0 {
					t.Errorf("there is %v", left)
				}
				return
			}
			if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, image) || len(left) != 1 {
				t.Errorf("%v, %v", left, err)
			}
		})
	}
}
