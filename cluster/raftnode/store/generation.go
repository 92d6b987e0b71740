package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// generationFile says in a node's directory of which generation of the group
// its log is. Without it, of the first.
const generationFile = "generation"

// FirstGeneration is that of a group that was never recovered.
const FirstGeneration = 1

// Generation reads of which generation of the group the log in dir is. Logs of
// different generations have entries of the same indexes that have nothing to
// do with each other: their nodes must not talk.
func Generation(dir string) (uint32, error) {
	name := filepath.Join(dir, generationFile)
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return FirstGeneration, nil
	}
	if err != nil {
		return 0, fmt.Errorf("store: %w", err)
	}
	g, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	if err != nil || g == 0 {
		return 0, fmt.Errorf("store: %s is damaged: it holds no number from 1 up", name)
	}
	return uint32(g), nil
}

// SetGeneration makes the generation durable.
func SetGeneration(dir string, g uint32) error {
	return WriteFile(dir, generationFile, []byte(strconv.FormatUint(uint64(g), 10)+"\n"))
}

// WriteFile writes a small file so that a crash leaves the old or the new one.
func WriteFile(dir, name string, text []byte) error {
	path := filepath.Join(dir, name)
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("store: writing %s: %w", path, err)
	}
	return SyncDir(dir)
}
