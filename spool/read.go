package spool

import "github.com/clrelay/clrelay/internal/mail"

// Content gives access to a message's content. It reads nothing yet.
func (s *Spool) Content(m *Message) *Content { return s.read.Of(m) }

// States reads where each recipient of a message stands, with its last reply.
func (s *Spool) States(m *Message) ([]RecipientState, error) { return s.read.States(m) }

// Orders gives what operators said of a message's recipients beyond their
// states; nil when nothing. Where nobody said anything of any message it costs
// next to nothing.
func (s *Spool) Orders(m *Message) []Orders {
	if !s.state.AnyOrders() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Orders(m)
}

// Envelope reads a message's envelope.
func (s *Spool) Envelope(m *Message) (*mail.Envelope, error) { return s.read.Envelope(m) }

// Checksum gives the CRC-32C that the content had when it was accepted. The
// log checks each of its records by itself; this is for those who look at the
// whole.
func (s *Spool) Checksum(m *Message) (uint32, error) { return s.read.Checksum(m) }
