package record

// Copy is a record on its way between nodes.
type Copy struct {
	Seq  uint64   // its number in the segment; for a result or an abort that of the message's first chunk
	Kind uint8    // KindChunk, KindCommit, KindAbort or KindResult
	Data [][]byte // the payload, in parts
}

// Inventory is what a node holds unfinished of a segment.
type Inventory struct {
	Segment uint64
	Last    uint64 // whatever is not above it and not in Live was finished here
	Suspect bool   // the store is damaged: what is not in Live may be lost instead
	Live    []LiveMessage
}

// LiveMessage is one unfinished message.
type LiveMessage struct {
	First  uint64 // sequence number of the first chunk
	Commit uint64 // and of the commit record
	// Results is an encoded Result of all recipients that have one, nil when
	// none has.
	Results []byte
}
