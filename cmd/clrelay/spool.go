package main

import (
	"context"
	"fmt"

	"github.com/clrelay/clrelay/cmd/clrelay/cli"
	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool/inspect"
)

// spoolTools look into the files of a spool.
func spoolTools() cli.SpoolTools {
	return cli.SpoolTools{
		Check: func(_ context.Context, dir string) (cli.SpoolReport, error) {
			found, err := inspect.Check(vfs.OS(), dir)
			return spoolReport(dir, &found), err
		},
		Export: func(_ context.Context, dir, out string) (cli.SpoolReport, error) {
			// Among other files it could not be told later what was exported.
			if names, err := vfs.OS().ReadDir(out); err == nil && len(names) > 0 {
				return cli.SpoolReport{}, fmt.Errorf("%s is not empty", out)
			}
			found, err := inspect.Export(vfs.OS(), dir, out)
			return spoolReport(dir, &found), err
		},
	}
}

func spoolReport(dir string, found *inspect.Report) cli.SpoolReport {
	r := cli.SpoolReport{
		Dir: dir, Files: int64(found.Files), Messages: int64(found.Messages),
		Recipients: int64(found.Recipients), Bytes: found.Bytes,
	}
	for _, d := range found.Damage {
		id := ""
		if !d.ID.IsZero() {
			id = d.ID.String()
		}
		r.Damage = append(r.Damage, cli.SpoolDamage{File: d.File, Offset: d.Offset, ID: id, What: d.What})
	}
	return r
}
