package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Versions of the stream that this build speaks. A hello says the range, a
// welcome the version chosen: the highest that both speak.
const (
	versionLow  = 1
	versionHigh = 1
)

const (
	helloMagic = "clrelay\x00"
	maxHello   = 4096 // bytes of a handshake frame
)

// hello is the body of the first frame of either side:
//
//	magic 8, lowest version 2, highest version 2, from, to
//
// where from and to are a Peer each: store 16, session 8, generation 4, length
// of the name 1, name. What follows is left to later versions.
type hello struct {
	low, high uint16
	from, to  Peer
}

// appendHello appends a whole handshake frame without its seal.
func appendHello(b []byte, h hello) []byte {
	b = append(b, make([]byte, frameHead)...)
	b = append(b, helloMagic...)
	b = binary.LittleEndian.AppendUint16(b, h.low)
	b = binary.LittleEndian.AppendUint16(b, h.high)
	return appendPeer(appendPeer(b, h.from), h.to)
}

func appendPeer(b []byte, p Peer) []byte {
	b = append(b, p.Store[:]...)
	b = binary.LittleEndian.AppendUint64(b, p.Session)
	b = binary.LittleEndian.AppendUint32(b, p.Generation)
	b = append(b, byte(len(p.Node)))
	return append(b, p.Node...)
}

// parseHello reads the body of a handshake frame.
func parseHello(b []byte) (h hello, err error) {
	if len(b) > maxHello || len(b) < len(helloMagic)+4 || string(b[:len(helloMagic)]) != helloMagic {
		return h, errors.New("it is no greeting")
	}
	b = b[len(helloMagic):]
	h.low, h.high = binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:])
	if h.from, b, err = parsePeer(b[4:]); err != nil {
		return h, err
	}
	h.to, _, err = parsePeer(b)
	return h, err
}

func parsePeer(b []byte) (p Peer, rest []byte, err error) {
	const fixed = 16 + 8 + 4 + 1
	if len(b) < fixed || len(b) < fixed+int(b[fixed-1]) {
		return p, nil, errShort
	}
	copy(p.Store[:], b)
	p.Session = binary.LittleEndian.Uint64(b[16:])
	p.Generation = binary.LittleEndian.Uint32(b[24:])
	n := fixed + int(b[fixed-1])
	p.Node = string(b[fixed:n])
	return p, b[n:], nil
}

// meet judges the greeting of the other end. It returns the version to speak.
func meet(self Peer, h hello) (uint16, error) {
	version := min(versionHigh, h.high)
	switch {
	case version < max(versionLow, h.low):
		return 0, fmt.Errorf("it speaks versions %d to %d, this node %d to %d", h.low, h.high, versionLow, versionHigh)
	case h.from.Generation != self.Generation || h.to.Generation != self.Generation:
		return 0, fmt.Errorf("it is of generation %d and means %d, this node is of %d", h.from.Generation, h.to.Generation, self.Generation)
	case h.to.Node != self.Node:
		return 0, fmt.Errorf("it means node %q, this is %q", h.to.Node, self.Node)
	case h.to.Session > self.Session:
		return 0, fmt.Errorf("it means session %d, this is the older %d", h.to.Session, self.Session)
	case h.to.Session == self.Session && h.to.Store != self.Store && h.to.Store != [16]byte{}:
		return 0, fmt.Errorf("it means store %x, this is %x", h.to.Store, self.Store)
	case h.from.Session == 0:
		return 0, errors.New("it has no session")
	}
	return version, nil
}
