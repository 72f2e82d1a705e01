import java.io.DataInputStream;
import java.io.IOException;
import java.net.Socket;
import java.net.SocketException;
import java.net.SocketTimeoutException;
import java.util.Random;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * Client PORT ROUNDS TIMEOUT: eight connections to a Server; every answer is compared. A read from a quiet
 * connection ends by its timeout, if there is one, and takes nothing from the next one; and one that
 * sleeps ends when another thread closes the socket.
 */
public class Client {
    static final int[] SIZES = {1, 2, 10, 100, 1000, 8191, 8192, 20000};
    static final AtomicInteger wrong = new AtomicInteger();

    static void check(boolean right, String what) throws IOException {
        if (!right)
            throw new IOException(what);
    }

    static void quiet(Socket socket) throws IOException {
        long begin = System.nanoTime();
        socket.setSoTimeout(40);
        try {
            int c = socket.getInputStream().read();
            throw new IOException("a quiet connection gave " + c);
        } catch (SocketTimeoutException e) {
            long ms = (System.nanoTime() - begin) / 1000000;
            check(ms >= 39, "a timeout of 40 ms ended after " + ms);
        }
    }

    static void closedByAnother(int port, int timeout) throws Exception {
        Socket socket = new Socket("127.0.0.1", port);
        socket.setSoTimeout(timeout);
        socket.getOutputStream().write(new byte[] {'x', '\n'});
        check(socket.getInputStream().read() == 'X', "the first byte is another one");
        check(socket.getInputStream().read() == '\n', "the second byte is another one");
        Thread closer = new Thread(() -> {
            try {
                // Only a read that sleeps is to be ended: Java's thread is then in native code, so its
                // state does not tell. Most often it sleeps by now; it is right too if it does not.
                Thread.sleep(30);
                socket.close();
            } catch (Exception e) {
                wrong.incrementAndGet();
            }
        });
        closer.start();
        try {
            int c = socket.getInputStream().read();
            throw new IOException("a closed socket gave " + c);
        } catch (SocketException e) {
            check(e.getMessage().contains("losed"), "a closed socket: " + e.getMessage());
        }
        closer.join();
    }

    static void talk(int number, int port, int rounds, int timeout) throws Exception {
        Random random = new Random(number);
        try (Socket socket = new Socket("127.0.0.1", port)) {
            socket.setTcpNoDelay(true);
            DataInputStream in = new DataInputStream(socket.getInputStream());
            if (timeout > 0)
                quiet(socket);
            socket.setSoTimeout(timeout);
            for (int round = 0; round < rounds; round++) {
                int n = SIZES[random.nextInt(SIZES.length)];
                byte[] sent = new byte[n], got = new byte[n];
                for (int i = 0; i < n; i++)
                    sent[i] = (byte) ('a' + random.nextInt(26));
                sent[n - 1] = '\n';
                socket.getOutputStream().write(sent);
                // Some byte by byte, some in pieces, some whole.
                if (n <= 1000 && round % 3 == 0) {
                    for (int i = 0; i < n; i++)
                        got[i] = in.readByte();
                } else {
                    int cut = round % 2 == 0 ? 0 : random.nextInt(n);
                    in.readFully(got, 0, cut);
                    in.readFully(got, cut, n - cut);
                }
                for (int i = 0; i < n; i++)
                    check(got[i] == (i == n - 1 ? '\n' : sent[i] - 32),
                        "round " + round + ": byte " + i + " of " + n + " is another one");
            }
            if (timeout > 0)
                quiet(socket);
            socket.setSoTimeout(timeout);
            socket.shutdownOutput();
            check(in.read() < 0, "more than was sent");
        }
        closedByAnother(port, timeout);
    }

    public static void main(String[] args) throws Exception {
        int port = Integer.parseInt(args[0]), rounds = Integer.parseInt(args[1]);
        int timeout = Integer.parseInt(args[2]);
        Thread[] threads = new Thread[8];
        for (int t = 0; t < threads.length; t++) {
            int number = t;
            threads[t] = new Thread(() -> {
                try {
                    talk(number, port, rounds, timeout);
                } catch (Exception e) {
                    wrong.incrementAndGet();
                    System.out.println("connection " + number + ": " + e);
                }
            });
            threads[t].start();
        }
        for (Thread thread : threads)
            thread.join();
        System.exit(wrong.get() == 0 ? 0 : 1);
    }
}
