import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.SocketTimeoutException;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;

/**
 * Server MODE PORT TIMEOUT: what comes goes back with its letters' case changed. SIGTERM ends it.
 *
 * stream    a thread for each connection, read(byte[8192])
 * bytewise  a thread for each connection, read()
 * selector  one thread, a Selector
 *
 * With a TIMEOUT in milliseconds, setSoTimeout(): Java then polls before each read. It is not the end of
 * a connection that one has passed.
 */
public class Server {
    static void swapcase(byte[] data, int n) {
        for (int i = 0; i < n; i++) {
            if (data[i] >= 'A' && data[i] <= 'Z' || data[i] >= 'a' && data[i] <= 'z')
                data[i] ^= 32;
        }
    }

    static void stream(InputStream in, OutputStream out) throws IOException {
        byte[] data = new byte[8192];
        for (;;) {
            try {
                int n = in.read(data);
                if (n < 0)
                    return;
                swapcase(data, n);
                out.write(data, 0, n);
            } catch (SocketTimeoutException e) {
                continue;
            }
        }
    }

    static void bytewise(InputStream in, OutputStream out) throws IOException {
        byte[] line = new byte[8192];
        int n = 0;
        for (;;) {
            try {
                int c = in.read();
                if (c >= 0)
                    line[n++] = (byte) c;
                if (c < 0 || c == '\n' || n == line.length) {
                    swapcase(line, n);
                    out.write(line, 0, n);
                    n = 0;
                }
                if (c < 0)
                    return;
            } catch (SocketTimeoutException e) {
                continue;
            }
        }
    }

    static void threads(String mode, int port, int timeout) throws IOException {
        ServerSocket listener = new ServerSocket(port, 128, InetAddress.getByName("127.0.0.1"));
        for (;;) {
            Socket socket = listener.accept();
            socket.setTcpNoDelay(true);
            socket.setSoTimeout(timeout);
            new Thread(() -> {
                try (socket) {
                    if (mode.equals("stream"))
                        stream(socket.getInputStream(), socket.getOutputStream());
                    else
                        bytewise(socket.getInputStream(), socket.getOutputStream());
                } catch (IOException e) {
                    System.err.println(e);
                }
            }).start();
        }
    }

    static void selector(int port) throws IOException {
        Selector selector = Selector.open();
        ServerSocketChannel listener = ServerSocketChannel.open();
        listener.bind(new InetSocketAddress("127.0.0.1", port), 128);
        listener.configureBlocking(false);
        listener.register(selector, SelectionKey.OP_ACCEPT);
        for (;;) {
            selector.select();
            for (SelectionKey key : selector.selectedKeys()) {
                if (key.isAcceptable()) {
                    SocketChannel client = listener.accept();
                    if (client != null) {
                        client.configureBlocking(false);
                        client.register(selector, SelectionKey.OP_READ, ByteBuffer.allocate(16384));
                    }
                } else {
                    serve(key);
                }
            }
            selector.selectedKeys().clear();
        }
    }

    /** Reads as long as all could be written; then waits for the way out alone. */
    static void serve(SelectionKey key) throws IOException {
        SocketChannel client = (SocketChannel) key.channel();
        ByteBuffer data = (ByteBuffer) key.attachment();
        if (key.isReadable()) {
            int n = client.read(data);
            if (n < 0) {
                client.close();
                return;
            }
            data.flip();
            swapcase(data.array(), data.limit());
        }
        client.write(data);
        if (data.hasRemaining()) {
            key.interestOps(SelectionKey.OP_WRITE);
        } else {
            data.clear();
            key.interestOps(SelectionKey.OP_READ);
        }
    }

    public static void main(String[] args) throws IOException {
        int port = Integer.parseInt(args[1]);
        if (args[0].equals("selector"))
            selector(port);
        else
            threads(args[0], port, Integer.parseInt(args[2]));
    }
}
