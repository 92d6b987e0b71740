package record

// DamageError says which part of the log cannot be read.
type DamageError struct {
	Place string // "FILE:OFFSET", or what is known instead
	What  string
	Err   error // may be nil
}

// Error tells place and damage.
func (e *DamageError) Error() string {
	s := "spool: damage at " + e.Place + ": " + e.What
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap gives the cause.
func (e *DamageError) Unwrap() error { return e.Err }
