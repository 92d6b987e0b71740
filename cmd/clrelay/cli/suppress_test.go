package cli_test

import (
	"context"

	"google.golang.org/grpc"

	"github.com/clrelay/clrelay/internal/admin/fleet"
	"github.com/clrelay/clrelay/internal/admin/suppress"
	"github.com/clrelay/clrelay/internal/ledger/suppressions"
	"github.com/clrelay/clrelay/internal/vfs"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// suppressing is the suppression list of a relay that is alone.
func suppressing() func(grpc.ServiceRegistrar, fleet.Fleet) {
	disk := vfs.NewMem()
	_ = disk.Mkdir("data", 0o700) // into memory
	list, err := suppressions.Open(disk, "data")
	return func(to grpc.ServiceRegistrar, _ fleet.Fleet) {
		if err == nil {
			adminv1.RegisterSuppressionServiceServer(to, &suppress.Service{
				Store: list, Now: now, Caller: func(context.Context) string { return "jane" },
				Group: func(name string) bool { return name == "campus" },
			})
		}
	}
}
