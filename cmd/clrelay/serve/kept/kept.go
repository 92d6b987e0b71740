// Package kept writes down in data_dir what the cluster's configuration was
// when a node last heard. cluster_config is read at the birth of the cluster
// alone, and settings that cannot change while the process runs are needed
// before it has met the others again.
package kept

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/clrelay/clrelay/cluster/raftnode/store"
	"github.com/clrelay/clrelay/internal/config"
)

const file = "cluster.yaml"

// Recall gives the configuration that is kept for the node; nil where there is
// none. One that does not fit its node.yaml any more is none either, and told
// as warnings: the cluster tells it again.
func Recall(n *config.Node) (*config.Cluster, error) {
	if n.Cluster == nil {
		return nil, nil
	}
	path := filepath.Join(string(n.DataDir), file)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the cluster's configuration: %w", err)
	}
	c, err := config.ParseCluster(path, text, n)
	if wrong := (config.Errors)(nil); errors.As(err, &wrong) {
		n.Warnings = append(n.Warnings, wrong...)
		return nil, nil
	}
	return c, err
}

// Keep writes it down. A crash leaves the old one or the new one.
func Keep(n *config.Node, text []byte) error {
	return store.WriteFile(string(n.DataDir), file, text)
}
