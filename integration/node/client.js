// client.js PORT ROUNDS: eight callers on kept connections post bodies to server.js http and compare what
// comes back with what they sent.
'use strict';
const crypto = require('crypto');
const http = require('http');
const [port, rounds] = [Number(process.argv[2]), Number(process.argv[3])];
const agent = new http.Agent({ keepAlive: true, maxSockets: 8 });
const sizes = [0, 1, 100, 1460, 16384, 70000, 300000];

function post(body) {
    return new Promise((resolve, reject) => {
        const options = { host: '127.0.0.1', port, agent, method: 'POST', path: '/' };
        const request = http.request(options, (response) => {
            const parts = [];
            response.on('data', (part) => parts.push(part));
            response.on('error', reject);
            response.on('end', () => resolve(Buffer.concat(parts)));
        });
        request.on('error', reject);
        // In two pieces, the second one later.
        const cut = body.length >> 1;
        request.write(body.subarray(0, cut));
        setImmediate(() => request.end(body.subarray(cut)));
    });
}

async function caller(number) {
    for (let i = 0; i < rounds; i++) {
        const body = Buffer.alloc(sizes[(number * 5 + i) % sizes.length]);
        crypto.createCipheriv('aes-128-ctr', crypto.createHash('md5').update(`${number}.${i}`).digest(),
            Buffer.alloc(16)).update(body).copy(body);
        const answer = await post(body);
        if (!answer.equals(body))
            throw new Error(`caller ${number}, round ${i}: sent ${body.length}, got ${answer.length} bytes`);
    }
}

Promise.all([...Array(8).keys()].map(caller)).then(
    () => process.exit(0),
    (error) => {
        console.log(error.message);
        process.exit(1);
    });
