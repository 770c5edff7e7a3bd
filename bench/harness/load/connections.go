package load

import (
	"bufio"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const slowWindowBytes = 4096

// connection is one to the router, with its read buffers, so that a request allocates none.
type connection struct {
	*net.TCPConn
	reader *bufio.Reader // of the connection
	lines  *bufio.Reader // of the body
}

// connections are kept alive and used again, the latest first. Speaking HTTP over them directly costs the load's core
// a fraction of net/http's client, and lets a client leave by FIN or RST.
type connections struct {
	address string
	sources int
	dialled atomic.Int64
	mu      sync.Mutex
	idle    []*connection
}

func (c *connections) get() (*connection, error) {
	c.mu.Lock()
	if n := len(c.idle); n > 0 {
		last := c.idle[n-1]
		c.idle = c.idle[:n-1]
		c.mu.Unlock()
		return last, nil
	}
	c.mu.Unlock()
	return c.dial()
}

func (c *connections) put(connection *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = append(c.idle, connection)
}

func (c *connections) dial() (*connection, error) {
	dialer := net.Dialer{Timeout: 10 * time.Second}
	if c.sources > 0 {
		source := byte(c.dialled.Add(1) % int64(c.sources))
		dialer.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1+source)}
	}
	raw, err := dialer.Dial("tcp", c.address)
	if err != nil {
		return nil, err
	}
	return &connection{raw.(*net.TCPConn), bufio.NewReaderSize(raw, 4096), bufio.NewReaderSize(nil, 8192)}, nil
}

// leaveByFin says goodbye first and takes what is still coming, as closing with unread bytes would send RST.
func (c *connection) leaveByFin() {
	_ = c.CloseWrite()
	_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
	scratch := make([]byte, 4096)
	for {
		if _, err := c.Read(scratch); err != nil {
			break
		}
	}
	_ = c.Close()
}

func (c *connection) leaveByReset() {
	_ = c.SetLinger(0)
	_ = c.Close()
}
