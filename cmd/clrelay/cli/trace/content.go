package trace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// Raw marks commands that take -o raw: octets as they are, to stdout.
const Raw = "raw"

func (a *nouns) headersCommand() *cobra.Command {
	req := &adminv1.HeadersRequest{}
	var out string
	cmd := &cobra.Command{
		Use:   "headers ID --reason TEXT",
		Short: "Show the header of a message in the queue, in an emergency",
		Long: `Show the header of a message in the queue of any node, octet by octet, with the
Received line that this relay put in front. It takes an operator who may read
what is in messages, and a reason: who asked for which message and why is
written down.`,
		Args:        cmdline.Exactly[*cobra.Command](1, "it takes one ID, the one that the 250 named"),
		Annotations: map[string]string{Raw: "yes"},
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Id = args[0]
			if strings.TrimSpace(req.Reason) == "" {
				return cmdline.Usagef(cmd.CommandPath(), "--reason is missing: it is written down why a message was read")
			}
			return a.with(func(l grpc.ClientConnInterface) error {
				return a.save(out, func(w io.Writer) error {
					ctx, cancel := context.WithCancel(cmd.Context())
					defer cancel()
					stream, err := adminv1.NewContentServiceClient(l).Headers(ctx, req)
					if err != nil {
						return err
					}
					_, err = pour(w, stream.Recv)
					return err
				})
			})
		},
	}
	cmd.Flags().StringVar(&req.Reason, "reason", "", "why, for the audit log; it is needed")
	cmd.Flags().StringVar(&out, "out", "", "write it into this new `file`, for its owner alone, instead of stdout")
	return cmd
}

func (a *nouns) bodyCommand() *cobra.Command {
	req := &adminv1.BodyRequest{}
	var out string
	cmd := &cobra.Command{
		Use:   "body ID --reason TEXT",
		Short: "Read a message in the queue, in an emergency",
		Long: `Read the whole content of a message in the queue of any node, octet by octet:
header, empty line and what follows. It takes an operator who may read what is in
messages, and a reason: who asked for which message and why is written down.`,
		Example: `  clrelay message body 01KASX2P7QJ6Y0M1T4N8R3V5W9 --reason "INC-4411 malware sample" --out sample.eml
  clrelay message body 01KASX2P7QJ6Y0M1T4N8R3V5W9 --reason "INC-4411" -o raw | sha256sum`,
		Args:        cmdline.Exactly[*cobra.Command](1, "it takes one ID, the one that the 250 named"),
		Annotations: map[string]string{Raw: "yes"},
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Id = args[0]
			switch {
			case strings.TrimSpace(req.Reason) == "":
				return cmdline.Usagef(cmd.CommandPath(), "--reason is missing: it is written down why a message was read")
			case out == "" && a.Format != Raw:
				return cmdline.Usagef(cmd.CommandPath(), "where to is missing: --out FILE, or -o raw for stdout")
			}
			return a.with(func(l grpc.ClientConnInterface) error {
				return a.save(out, func(w io.Writer) error {
					ctx, cancel := context.WithCancel(cmd.Context())
					defer cancel()
					stream, err := adminv1.NewContentServiceClient(l).Body(ctx, req)
					if err != nil {
						return err
					}
					size := int64(0)
					n, err := pour(w, func() (*adminv1.BodyResponse, error) {
						v, err := stream.Recv()
						size += v.GetSize()
						return v, err
					})
					if err == nil && n != size {
						err = fmt.Errorf("%d octets came of %d", n, size)
					}
					return err
				})
			})
		},
	}
	cmd.Flags().StringVar(&req.Reason, "reason", "", "why, for the audit log; it is needed")
	cmd.Flags().StringVar(&out, "out", "", "write it into this new `file`, for its owner alone")
	return cmd
}

// pour writes what comes and counts it.
func pour[T interface{ GetData() []byte }](w io.Writer, recv func() (T, error)) (n int64, err error) {
	for {
		v, err := recv()
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		k, err := w.Write(v.GetData())
		n += int64(k)
		if err != nil {
			return n, err
		}
	}
}

// save calls write for stdout, or for a new file, which is whole or not there.
func (a *nouns) save(name string, write func(io.Writer) error) error {
	if name == "" {
		return write(a.Stdout)
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return cmdline.Exitf(cmdline.ExitConflict, "%s: exists already: it is not overwritten", name)
	}
	if err != nil {
		return err
	}
	err = write(f)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		_ = os.Remove(name) // it is not whole: the error says why
		return err
	}
	a.Talk("wrote %s", name)
	return nil
}
