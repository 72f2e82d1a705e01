// server.js MODE PORT; SIGTERM ends it.
//
// echo   a stream comes back as it is
// lines  a line comes back with its letters' case changed
// http   a POST comes back
'use strict';
const net = require('net');
const http = require('http');
const [mode, port] = [process.argv[2], Number(process.argv[3])];

function swapcase(buffer) {
    const out = Buffer.from(buffer);
    for (let i = 0; i < out.length; i++) {
        if ((out[i] >= 65 && out[i] <= 90) || (out[i] >= 97 && out[i] <= 122))
            out[i] ^= 32;
    }
    return out;
}

function lines(socket) {
    let rest = Buffer.alloc(0);
    socket.setNoDelay(true);
    socket.on('data', (data) => {
        rest = Buffer.concat([rest, data]);
        const end = rest.lastIndexOf(10) + 1;
        if (end > 0) {
            socket.write(swapcase(rest.subarray(0, end)));
            rest = rest.subarray(end);
        }
    });
    socket.on('end', () => socket.end());
}

const servers = {
    // pipe() pauses the reading side whenever the writing side is full.
    echo: () => net.createServer({ allowHalfOpen: true }, (socket) => socket.pipe(socket)),
    lines: () => net.createServer({ allowHalfOpen: true }, lines),
    http: () => http.createServer((request, response) => request.pipe(response)),
};
servers[mode]().listen(port, '127.0.0.1');
process.on('SIGTERM', () => process.exit(0));
