package config

import "github.com/clrelay/clrelay/internal/config/words"

// The values that all sections have.
type (
	Duration = words.Duration // a number with s, m, h or d
	Size     = words.Size     // octets
	Name     = words.Name     // what the operator calls a thing
	Path     = words.Path     // a file or folder, absolute once loaded
	Text     = words.Text     // any words
)
