package cli

import (
	"context"
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

func (a *App) versionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Tell the version of this program",
		Args:  cmdline.AtMost[*cobra.Command](0, "it takes nothing"),
		RunE: func(*cobra.Command, []string) error {
			out := struct {
				Version string `json:"version"`
				Go      string `json:"go"`
				OS      string `json:"os"`
				Arch    string `json:"arch"`
			}{a.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH}
			return a.console().Object(out, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "clrelay %s (%s %s/%s)\n", out.Version, out.Go, out.OS, out.Arch)
				return err
			})
		},
	}
	return cmd
}

func (a *App) healthcheckCommand() *cobra.Command {
	var ready bool
	cmd := &cobra.Command{
		Use:   "healthcheck",
		Short: "Tell whether the relay answers, for containers",
		Long: `Ask the relay how it does, for the health check of a container without a shell.
The exit code is 0 when it answers, with --ready only when it would take mail.`,
		Args: cmdline.AtMost[*cobra.Command](0, "it takes nothing"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(l grpc.ClientConnInterface) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
				defer cancel()
				res, err := adminv1.NewNodeServiceClient(l).Status(ctx, &adminv1.StatusRequest{})
				if err != nil {
					return err
				}
				return a.printHealth(res, ready)
			})
		},
	}
	cmd.Flags().BoolVar(&ready, "ready", false, "fail when the relay would not take mail now")
	return cmd
}

func (a *App) printHealth(res *adminv1.StatusResponse, ready bool) error {
	status := "ready"
	switch {
	case res.GetDraining():
		status = "draining"
	case !res.GetReady():
		status = "not_ready"
	}
	out := struct {
		Node    string   `json:"node"`
		Status  string   `json:"status"`
		Reason  string   `json:"reason"`
		Version string   `json:"version"`
		Started any      `json:"started"`
		SMTP    []string `json:"smtp"`
	}{res.GetNode(), status, res.GetReason(), res.GetVersion(), cmdline.Stamp(res.GetStarted()), append([]string{}, res.GetSmtp()...)}
	err := a.console().Object(out, func(w io.Writer) error {
		line := out.Node + ": " + out.Status
		if out.Reason != "" {
			line += " (" + cmdline.Cell(out.Reason, 200) + ")"
		}
		_, err := fmt.Fprintln(w, line)
		return err
	})
	if err != nil {
		return err
	}
	if ready && !res.GetReady() {
		return cmdline.Exitf(cmdline.ExitFailed, "the relay would not take mail now: %s", cmdline.Cell(res.GetReason(), 200))
	}
	return nil
}
