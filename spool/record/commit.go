package record

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/clrelay/clrelay/internal/mail"
)

// Commit is the payload of a commit record: the message itself, whose content
// is in the chunks it names.
type Commit struct {
	First  uint64   // sequence number of the first chunk
	More   []uint32 // those of the further chunks, less First, rising
	Length uint64
	CRC32C uint32 // of the whole content
}

// Numbers of Commit's fields that two functions know.
const (
	fieldID         = 1
	fieldFirst      = 2
	fieldMore       = 3
	fieldLength     = 4
	fieldCRC        = 5
	fieldArrived    = 6
	fieldRecipients = 9
	fieldHold       = 17
)

// AppendCommit appends the encoded message.
func AppendCommit(dst []byte, c *Commit, env *mail.Envelope) []byte {
	dst = appendBytes(dst, fieldID, env.ID[:])
	dst = appendUint(dst, fieldFirst, c.First)
	dst = appendPacked(dst, fieldMore, c.More)
	dst = appendUint(dst, fieldLength, c.Length)
	dst = binary.LittleEndian.AppendUint32(protowire.AppendTag(dst, fieldCRC, protowire.Fixed32Type), c.CRC32C)
	dst = appendUint(dst, fieldArrived, uint64(env.Arrived.UnixMilli()))
	dst = appendString(dst, 7, env.From.Local)
	dst = appendString(dst, 8, env.From.Domain)
	for i := range env.Recipients {
		dst = appendRecipient(dst, &env.Recipients[i])
	}
	dst = appendUint(dst, 10, uint64(env.Body))
	dst = appendBool(dst, 11, env.SMTPUTF8)
	dst = appendBool(dst, 12, env.RequireTLS)
	dst = appendUint(dst, 13, uint64(env.Ret))
	dst = appendString(dst, 14, env.EnvID)
	dst = appendClient(dst, &env.Client)
	dst = appendString(dst, 16, env.MessageID)
	dst = appendUint(dst, fieldHold, millis(env.Hold))
	return appendBy(dst, &env.By)
}

// Bits of by_mode.
const (
	byReturn = 1 << 0
	byTrace  = 1 << 1
)

func appendBy(dst []byte, by *mail.By) []byte {
	if by.At.IsZero() {
		return dst
	}
	mode := uint64(0)
	if by.Return {
		mode |= byReturn
	}
	if by.Trace {
		mode |= byTrace
	}
	return appendUint(appendUint(dst, 18, millis(by.At)), 19, mode)
}

// millis is Unix time in milliseconds; 0: none.
func millis(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(max(t.UnixMilli(), 1))
}

func appendRecipient(dst []byte, r *mail.Recipient) []byte {
	var buf [512]byte
	b := appendString(buf[:0], 1, r.Addr.Local)
	b = appendString(b, 2, r.Addr.Domain)
	b = appendUint(b, 3, uint64(r.Notify))
	b = appendString(b, 4, r.ORcptType)
	b = appendString(b, 5, r.ORcpt)
	return appendBytes(dst, fieldRecipients, b)
}

func appendClient(dst []byte, c *mail.Client) []byte {
	var buf [512]byte
	b := buf[:0]
	if c.Addr.IsValid() {
		var ip [64]byte
		addr, _ := c.Addr.AppendBinary(ip[:0]) // never fails
		b = appendBytes(b, 1, addr)
	}
	b = appendString(b, 2, c.Helo)
	b = appendString(b, 3, c.Protocol)
	b = appendString(b, 4, c.TLS)
	b = appendString(b, 5, c.Sender)
	return appendBytes(dst, 15, b)
}

// Skim is what the index needs of a commit record.
type Skim struct {
	ID         mail.ID
	ArrivedMS  int64
	HoldMS     int64 // no delivery before; 0: none
	Recipients int
}

// SkimCommit reads c and what the index needs, without the envelope's texts;
// the memory of c.More is used again.
func SkimCommit(data []byte, c *Commit) (s Skim, err error) {
	*c = Commit{More: c.More[:0]}
	err = fields(data, func(f field) (err error) {
		switch f.num {
		case fieldID:
			return f.id(&s.ID)
		case fieldArrived:
			s.ArrivedMS = int64(f.val)
		case fieldHold:
			s.HoldMS = int64(f.val)
		case fieldRecipients:
			s.Recipients++
		default:
			return c.field(f)
		}
		return nil
	})
	if err == nil && s.ID.IsZero() {
		err = fmt.Errorf("%w: commit without an ID", ErrPayload)
	}
	return s, err
}

func (c *Commit) field(f field) (err error) {
	switch f.num {
	case fieldFirst:
		c.First = f.val
	case fieldMore:
		c.More, err = f.uint32s(c.More)
	case fieldLength:
		c.Length = f.val
	case fieldCRC:
		c.CRC32C = uint32(f.val)
	}
	return err
}

// ParseCommit decodes the whole message; the memory of c.More and
// env.Recipients is used again.
func ParseCommit(data []byte, c *Commit, env *mail.Envelope) error {
	*c = Commit{More: c.More[:0]}
	*env = mail.Envelope{Recipients: env.Recipients[:0], Arrived: time.UnixMilli(0)}
	// One string holds all texts: they live and die together.
	text := string(data)
	return fields(data, func(f field) error {
		str := func(f field) string {
			if len(f.data) == 0 {
				return ""
			}
			off := cap(data) - cap(f.data)
			return text[off : off+len(f.data)]
		}
		switch f.num {
		case fieldID:
			return f.id(&env.ID)
		case fieldArrived:
			env.Arrived = time.UnixMilli(int64(f.val))
		case 7:
			env.From.Local = str(f)
		case 8:
			env.From.Domain = str(f)
		case fieldRecipients:
			env.Recipients = append(env.Recipients, mail.Recipient{})
			return parseRecipient(f.data, &env.Recipients[len(env.Recipients)-1], str)
		case 10:
			env.Body = mail.BodyType(f.val)
		case 11:
			env.SMTPUTF8 = f.val != 0
		case 12:
			env.RequireTLS = f.val != 0
		case 13:
			env.Ret = mail.Return(f.val)
		case 14:
			env.EnvID = str(f)
		case 15:
			return parseClient(f.data, &env.Client, str)
		case 16:
			env.MessageID = str(f)
		case fieldHold:
			env.Hold = time.UnixMilli(int64(f.val))
		case 18:
			env.By.At = time.UnixMilli(int64(f.val))
		case 19:
			env.By.Return, env.By.Trace = f.val&byReturn != 0, f.val&byTrace != 0
		default:
			return c.field(f)
		}
		return nil
	})
}

func parseRecipient(data []byte, r *mail.Recipient, str func(field) string) error {
	return fields(data, func(f field) error {
		switch f.num {
		case 1:
			r.Addr.Local = str(f)
		case 2:
			r.Addr.Domain = str(f)
		case 3:
			r.Notify = mail.Notify(f.val)
		case 4:
			r.ORcptType = str(f)
		case 5:
			r.ORcpt = str(f)
		}
		return nil
	})
}

func parseClient(data []byte, c *mail.Client, str func(field) string) error {
	return fields(data, func(f field) error {
		switch f.num {
		case 1:
			var a netip.Addr
			if err := a.UnmarshalBinary(f.data); err != nil {
				return fmt.Errorf("%w: client address: %w", ErrPayload, err)
			}
			c.Addr = a
		case 2:
			c.Helo = str(f)
		case 3:
			c.Protocol = str(f)
		case 4:
			c.TLS = str(f)
		case 5:
			c.Sender = str(f)
		}
		return nil
	})
}
