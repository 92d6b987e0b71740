package mail

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"strings"
	"time"
)

// ID names a message for its whole life: in the 250, in every command, log
// line and event. It is 48 bits of Unix time in milliseconds, big endian,
// then 80 random bits, so IDs sort by time. The zero ID names nothing.
type ID [16]byte

// IDLen is the length of a printed ID.
const IDLen = 26

// ErrBadID says that a text is no ID.
var ErrBadID = errors.New("not a message ID: it has 26 characters of 0-9 and A-Z without I, L, O and U")

// crockford is base32 without the letters that are read wrong aloud.
var crockford = base32.NewEncoding("0123456789ABCDEFGHJKMNPQRSTVWXYZ").WithPadding(base32.NoPadding)

// NewID makes an ID for a message that came at now.
func NewID(now time.Time) ID {
	var id ID
	rand.Read(id[6:]) // never fails (Go 1.24)
	ms := uint64(now.UnixMilli())
	binary.BigEndian.PutUint16(id[0:2], uint16(ms>>32))
	binary.BigEndian.PutUint32(id[2:6], uint32(ms))
	return id
}

// String prints the ID in IDLen characters of Crockford's base32.
func (id ID) String() string { return crockford.EncodeToString(id[:]) }

// Append appends what String prints to dst.
func (id ID) Append(dst []byte) []byte { return crockford.AppendEncode(dst, id[:]) }

// Time is when the ID was made, to the millisecond.
func (id ID) Time() time.Time {
	ms := uint64(binary.BigEndian.Uint16(id[0:2]))<<32 | uint64(binary.BigEndian.Uint32(id[2:6]))
	return time.UnixMilli(int64(ms))
}

// IsZero tells whether the ID names nothing.
func (id ID) IsZero() bool { return id == ID{} }

// ParseID reads what String printed; lower case is taken too. The error is
// ErrBadID.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != IDLen {
		return ID{}, ErrBadID
	}
	n, err := crockford.Decode(id[:], []byte(strings.ToUpper(s)))
	if err != nil || n != len(id) || id.String() != strings.ToUpper(s) {
		return ID{}, ErrBadID
	}
	return id, nil
}
