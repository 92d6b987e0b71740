package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/clrelay/clrelay/internal/config/strict"
)

// Error is one thing wrong with a file.
type Error = strict.Error

// Errors are all the errors of a file; the error of a load is of this type
// when the file is wrong.
type Errors = strict.Errors

// clustersRun says whether this version can run more than one machine. While it
// cannot, a cluster section is an error.
const clustersRun = true

// check is a file whose form was read; its methods check what the settings
// mean together.
type check struct {
	*strict.File
	clusters bool // a cluster section is allowed
}

// LoadNode reads node.yaml. The error is Errors when the file is wrong, and
// something else when it cannot be read.
func LoadNode(path string) (*Node, error) {
	f, err := strict.Read(path)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	return readNode(check{f, clustersRun})
}

// LoadJoining reads node.yaml of a machine that a cluster is yet to give what
// tls_dir holds.
func LoadJoining(path string) (*Node, error) {
	f, err := strict.Read(path)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	return fillNode(check{f, clustersRun}, &Node{Joining: true})
}

func readNode(f check) (*Node, error) { return fillNode(f, &Node{}) }

func fillNode(f check, n *Node) (*Node, error) {
	node, cluster := docs()
	f.Fill(n, node, cluster)
	if f.Parsed() {
		f.node(n)
	}
	if errs := f.Errors(); len(errs) > 0 {
		return nil, errs
	}
	n.Warnings = f.Warnings()
	return n, nil
}

// LoadCluster reads cluster.yaml. The error is Errors when the file is wrong,
// and something else when it cannot be read. An empty file is right: it lets
// nobody relay and has no domains. Where it does not give spool.copies, that
// is 0: the default depends on the node.
func LoadCluster(path string) (*Cluster, error) {
	f, err := strict.Read(path)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	return readCluster(check{f, clustersRun}, nil)
}

// ParseCluster reads the text of a cluster.yaml that n is to run with, as it
// comes to a node from its cluster. name is for messages; paths in it start at
// the folder of n's cluster_config. The error is Errors.
func ParseCluster(name string, text []byte, n *Node) (*Cluster, error) {
	dir := filepath.Dir(string(n.ClusterConfig))
	return readCluster(check{strict.Parse(name, dir, text), clustersRun}, n)
}

// ClusterTree gives what the text of a cluster.yaml says, for a comparison with
// another. It need not be one that this version of the program could run with.
func ClusterTree(name string, text []byte) (*strict.Tree, error) {
	_, cluster := docs()
	return strict.Parse(name, "", text).Tree(cluster)
}

// Lines tells in which line of the text of a cluster.yaml a setting stands, such
// as routes[0]: that of the nearest section around one that is not there.
func Lines(text []byte) func(key string) int {
	f := strict.Parse("", "", text)
	node, cluster := docs()
	f.Fill(&Cluster{}, cluster, node)
	return f.Line
}

// readCluster reads cluster.yaml for the node n, or for any when it is nil.
func readCluster(f check, n *Node) (*Cluster, error) {
	c := &Cluster{}
	node, cluster := docs()
	f.Fill(c, cluster, node)
	if f.Parsed() {
		f.cluster(c)
		f.copies(c, n)
		f.members(c, n)
	}
	if errs := f.Errors(); len(errs) > 0 {
		return nil, errs
	}
	c.Text, c.Warnings = f.Text(), f.Warnings()
	return c, nil
}

// Load reads node.yaml and the file that its cluster_config names. The error
// is Errors when one of them is wrong or the latter cannot be read, and
// something else when node.yaml cannot be read. A node of a cluster may go
// without the latter: it has the settings from the others, or founds the
// cluster with the defaults.
func Load(path string) (*Node, *Cluster, error) {
	f, err := strict.Read(path)
	if err != nil {
		return nil, nil, fmt.Errorf("config: %w", err)
	}
	n, err := readNode(check{f, clustersRun})
	if err != nil {
		return nil, nil, err
	}
	c, err := readNamed(check{f, clustersRun}, n)
	if err != nil {
		return nil, nil, err
	}
	return n, c, nil
}

// readNamed reads the file that cluster_config of n names. One that cannot be
// read is an error of f.
func readNamed(f check, n *Node) (*Cluster, error) {
	named, err := strict.Read(string(n.ClusterConfig))
	var pe *fs.PathError
	switch {
	case err == nil:
		return readCluster(check{named, f.clusters}, n)
	case errors.Is(err, fs.ErrNotExist) && n.Cluster != nil:
		return readCluster(check{strict.Parse(string(n.ClusterConfig), "/", nil), f.clusters}, n)
	case errors.Is(err, fs.ErrNotExist):
		f.Bad("cluster_config", "there is no file %s", n.ClusterConfig)
	case errors.As(err, &pe):
		f.Bad("cluster_config", "%s cannot be read: %v", n.ClusterConfig, pe.Err)
	default:
		return nil, fmt.Errorf("config: %s: %w", n.ClusterConfig, err)
	}
	return nil, f.Errors()
}

// Report is what Validate found in files that are right.
type Report struct {
	Files    []string // the files that were read, as they were named
	Warnings Errors
}

// Validate checks one of the two files, which it tells apart by their keys.
// With node.yaml it checks the file that cluster_config names, too, so that
// what passes here starts. The error is as with LoadNode and LoadCluster.
func Validate(path string) (Report, error) {
	read, err := strict.Read(path)
	if err != nil {
		return Report{}, fmt.Errorf("config: %w", err)
	}
	f := check{read, clustersRun}
	if !isNode(read, path) {
		c, err := readCluster(f, nil)
		if err != nil {
			return Report{}, err
		}
		return Report{[]string{path}, c.Warnings}, nil
	}
	n, err := readNode(f)
	if err != nil {
		return Report{}, err
	}
	c, err := readNamed(f, n)
	if err != nil {
		return Report{}, err
	}
	return Report{[]string{path, string(n.ClusterConfig)}, append(n.Warnings, c.Warnings...)}, nil
}

// isNode tells which of the two a file is by what its top keys are, or are
// nearest to. A file without any is cluster.yaml, which may be empty, unless
// it is called after the other.
func isNode(f *strict.File, path string) bool {
	node, cluster := docs()
	var of [2][]string
	for i, d := range []strict.Doc{node, cluster} {
		for _, k := range strict.Fields(d.Type) {
			of[i] = append(of[i], k.Key)
		}
	}
	all := slices.Concat(of[0], of[1])
	score := 0
	for _, key := range f.TopKeys() {
		switch g := strict.Guess(key, all); {
		case slices.Contains(of[0], g):
			score++
		case g != "":
			score--
		}
	}
	if score == 0 {
		return strings.HasPrefix(filepath.Base(path), "node")
	}
	return score > 0
}

// readable reads a file that a key names. It reports one that cannot be read,
// and warns of a secret that everybody can.
func (s check) readable(key string, path Path, secret bool) []byte {
	if path == "" || !s.Fine(key) {
		return nil
	}
	return s.read(key, path, secret)
}

// read is readable for a key that names several files.
func (s check) read(key string, path Path, secret bool) []byte {
	fi, err := os.Stat(string(path))
	var text []byte
	if err == nil && fi.Mode().IsRegular() && fi.Size() <= strict.MaxFileSize {
		text, err = os.ReadFile(string(path))
	}
	var pe *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.Bad(key, "there is no file %s", path)
	case errors.As(err, &pe):
		s.Bad(key, "%s cannot be read: %v", path, pe.Err)
	case !fi.Mode().IsRegular():
		s.Bad(key, "%s is no file", path)
	case fi.Size() > strict.MaxFileSize:
		s.Bad(key, "%s is larger than %v", path, Size(strict.MaxFileSize))
	case secret && fi.Mode().Perm()&0o004 != 0:
		s.Warn(key, "everybody on this machine can read %s (mode %04o): chmod o-r", path, fi.Mode().Perm())
	}
	return text
}
