package rescue

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clrelay/clrelay/cluster/rescue"
	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// backupTimeout bounds a backup over the network.
const backupTimeout = 10 * time.Minute

func (t *tools) backup() *cobra.Command {
	out := ""
	cmd := &cobra.Command{
		Use:   "backup {--out FILE | FILE}",
		Short: "Write the control plane to a file",
		Long: `Write the control plane to FILE, which must not exist: who owns which segment,
the nodes, the configuration of the cluster. No message is in it. The file is
for "cluster restore".

With --out it comes from a running node, any, over its socket or --addr: what
that node has applied when it is asked. It says on stderr which index of the log
that is, and when the node sees no quorum, so that others may know more. Nothing
stops meanwhile. A connection that breaks half-way leaves no file (4).

Without --out it is read from the data_dir that node.yaml (--config) names, and
the node must not run; the others go on meanwhile. Nothing in data_dir is
changed.`,
		Example: `  clrelay cluster backup --out /var/backups/clrelay-$(date +%F)`,
		Args:    cmdline.AtMost[*cobra.Command](1, "one FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			t.format(cmd)
			switch {
			case (out == "") == (len(args) == 0):
				return cmdline.Usagef(cmd.CommandPath(), "one FILE: with --out from a running node, without from one that is stopped")
			case out != "":
				return t.online(cmd.Context(), out)
			}
			return t.offline(cmd, args[0])
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "from a running node, to this `FILE`")
	return cmd
}

// offline backs a stopped node up.
func (t *tools) offline(cmd *cobra.Command, file string) error {
	n, err := t.node(cmd)
	if err != nil {
		return err
	}
	state, r, err := n.Backup()
	if err == nil {
		err = rescue.Write(file, state)
	}
	if errors.Is(err, rescue.ErrRunning) {
		err = fmt.Errorf("%w, or say --out %s", err, file)
	}
	if err != nil {
		return explain(err)
	}
	return t.print(n, r, "written to "+file)
}

// saved is what backup --out prints.
type saved struct {
	File       string   `json:"file"`
	Node       string   `json:"node"`
	Generation uint32   `json:"generation"`
	Term       uint64   `json:"term"`
	Index      uint64   `json:"index"`
	Leader     string   `json:"leader"`
	Quorum     bool     `json:"quorum"`
	Members    []string `json:"members"`
	Segments   int64    `json:"segments"`
	Size       int64    `json:"size"`
}

// online backs the control plane of a running node up.
func (t *tools) online(ctx context.Context, file string) error {
	d, err := rescue.Create(file)
	if err != nil {
		return explain(err)
	}
	defer d.Discard()
	ctx, cancel := context.WithTimeout(ctx, backupTimeout)
	defer cancel()
	var head *adminv1.BackupHead
	err = t.with(func(conn grpc.ClientConnInterface) error {
		stream, err := adminv1.NewRescueServiceClient(conn).Backup(ctx, &adminv1.BackupRequest{})
		if err == nil {
			head, err = receive(stream, d)
		}
		return err
	})
	if err != nil {
		return explain(err)
	}
	if r, err := d.Look(); err != nil || r.Index != head.GetIndex() {
		return fmt.Errorf("%s gave something that cannot be restored, nothing was written: %w", head.GetNode(), errors.Join(rescue.ErrDamaged, err))
	}
	if err := d.Keep(); err != nil {
		return explain(err)
	}
	return t.tell(file, head)
}

// receive writes what a node sends, and sees that it is all of it.
func receive(stream adminv1.RescueService_BackupClient, to io.Writer) (*adminv1.BackupHead, error) {
	first, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	head, sum, size := first.GetHead(), sha256.New(), int64(0)
	to = io.MultiWriter(to, sum)
	for msg := first; ; {
		if _, err := to.Write(msg.GetData()); err != nil {
			return nil, err
		}
		size += int64(len(msg.GetData()))
		msg, err = stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && size < head.GetSize(), status.Code(err) == codes.Unavailable:
			return nil, cmdline.Exitf(cmdline.ExitUnreachable, "the connection broke after %d of %d octets: nothing was written", size, head.GetSize())
		case errors.Is(err, io.EOF):
			if size != head.GetSize() || !bytes.Equal(sum.Sum(nil), head.GetSha256()) {
				return nil, cmdline.Exitf(cmdline.ExitFailed, "what came is not what %s sent: nothing was written", head.GetNode())
			}
			return head, nil
		case err != nil:
			return nil, err
		}
	}
}

// tell says what was written, and what it may lack.
func (t *tools) tell(file string, h *adminv1.BackupHead) error {
	t.Talk("%s: the control plane of %s at index %d (generation %d, term %d), %s, nodes %s, %s",
		file, h.GetNode(), h.GetIndex(), h.GetGeneration(), h.GetTerm(), cmdline.Size(h.GetSize()),
		strings.Join(h.GetNodes(), " "), cmdline.Plural(h.GetSegments(), "segment"))
	switch {
	case !h.GetQuorum():
		t.Talk("%s sees no quorum: another node may know more.", h.GetNode())
	case h.GetLeader() != h.GetNode():
		t.Talk("%s leads; %s follows it and may be a moment behind.", h.GetLeader(), h.GetNode())
	}
	if t.Format == cmdline.FormatTable {
		return nil
	}
	return t.Object(saved{
		File: file, Node: h.GetNode(), Generation: h.GetGeneration(), Term: h.GetTerm(), Index: h.GetIndex(), Leader: h.GetLeader(),
		Quorum: h.GetQuorum(), Members: append([]string{}, h.GetNodes()...), Segments: h.GetSegments(), Size: h.GetSize(),
	}, nil)
}
