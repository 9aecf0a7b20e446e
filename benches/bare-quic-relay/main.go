// A bare relay over quic-go, the QUIC library of the Go relays: the least that one of them can cost for a message over QUIC.
//
// It takes whatever auth message comes, finds the receiver in a map, exchanges the ID and sends the datagram on. No token, no
// queue, no count, no log. It is a yardstick for docs/performance.md, and no relay: whoever reaches it may use it.
//
//	go run . 127.0.0.1:8444
//	trunkline load flow --quic --insecure --address 127.0.0.1:8444 --secret any --pid $(pgrep bare-quic-relay)
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"log"
	"math/big"
	"net"
	"os"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	transport    = 3
	auth         = 6
	authResponse = 7

	idLen           = 36
	authHeader      = 6
	transportHeader = 2
)

type peers struct {
	sync.RWMutex
	byID map[[idLen]byte]*quic.Conn
}

func (p *peers) find(id [idLen]byte) *quic.Conn {
	p.RLock()
	defer p.RUnlock()
	return p.byID[id]
}

func (p *peers) serve(conn *quic.Conn) {
	ctx := context.Background()
	message, err := conn.ReceiveDatagram(ctx)
	if err != nil || len(message) < authHeader+idLen || message[1] != auth {
		return
	}
	id := [idLen]byte(message[authHeader:])
	p.Lock()
	p.byID[id] = conn
	p.Unlock()
	defer func() {
		p.Lock()
		delete(p.byID, id)
		p.Unlock()
	}()
	if conn.SendDatagram(append([]byte{1, authResponse}, "rels://localhost:443"...)) != nil {
		return
	}
	for {
		message, err := conn.ReceiveDatagram(ctx)
		if err != nil {
			return
		}
		if len(message) < transportHeader+idLen || message[1] != transport {
			continue
		}
		if to := p.find([idLen]byte(message[transportHeader:])); to != nil {
			copy(message[transportHeader:], id[:])
			_ = to.SendDatagram(message)
		}
	}
}

func certificate() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		log.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: bare-quic-relay HOST:PORT")
	}
	address, err := net.ResolveUDPAddr("udp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	socket, err := net.ListenUDP("udp", address)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := (&quic.Transport{Conn: socket}).Listen(
		&tls.Config{Certificates: []tls.Certificate{certificate()}, NextProtos: []string{"nb-quic"}},
		&quic.Config{EnableDatagrams: true, InitialPacketSize: 1452, KeepAlivePeriod: 30 * time.Second, MaxIdleTimeout: 4 * time.Minute},
	)
	if err != nil {
		log.Fatal(err)
	}
	peers := peers{byID: map[[idLen]byte]*quic.Conn{}}
	for {
		conn, err := listener.Accept(context.Background())
		if err != nil {
			log.Fatal(err)
		}
		go peers.serve(conn)
	}
}
