import java.math.BigDecimal;
import java.math.BigInteger;
import java.math.MathContext;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;
import java.util.concurrent.Callable;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.ReentrantLock;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import java.util.zip.CRC32;
import java.util.zip.Deflater;
import java.util.zip.Inflater;

/** Work of many kinds for a Java virtual machine; prints digests only. */
public final class Compute {
    private static int size;

    interface Shape {
        double area();
    }

    static final class Square implements Shape {
        private final int side;

        Square(int side) {
            this.side = side;
        }

        public double area() {
            return (double) side * side;
        }
    }

    static class Circle implements Shape {
        protected final double radius;

        Circle(double radius) {
            this.radius = radius;
        }

        public double area() {
            return Math.PI * radius * radius;
        }
    }

    static final class Ring extends Circle {
        Ring(double radius) {
            super(radius);
        }

        @Override
        public double area() {
            return super.area() - Math.PI * radius;
        }
    }

    static String hex(byte[] data) throws Exception {
        return new BigInteger(1, MessageDigest.getInstance("SHA-256").digest(data)).toString(16);
    }

    static String matrices() throws Exception {
        int n = 60 + 10 * size;
        double[][] a = new double[n][n], b = new double[n][n], c = new double[n][n];
        Random random = new Random(3);
        for (int i = 0; i < n; i++) {
            for (int j = 0; j < n; j++) {
                a[i][j] = random.nextGaussian();
                b[i][j] = random.nextInt() / (double) (1 + i * j);
            }
        }
        for (int i = 0; i < n; i++) {
            for (int k = 0; k < n; k++) {
                for (int j = 0; j < n; j++) {
                    c[i][j] += a[i][k] * b[k][j];
                }
            }
        }
        ByteBuffer out = ByteBuffer.allocate(8 * n * n);
        for (double[] row : c) {
            for (double x : row) {
                out.putDouble(x);
            }
        }
        return hex(out.array());
    }

    static String vectors() {
        int n = 20000 * size;
        int[] a = new int[n];
        long[] b = new long[n];
        float[] f = new float[n];
        short[] s = new short[n];
        byte[] y = new byte[n];
        for (int i = 0; i < n; i++) {
            a[i] = i * 0x9e3779b9;
        }
        for (int round = 0; round < 5; round++) {
            for (int i = 0; i < n; i++) {
                b[i] += (long) a[i] * (i | 1) ^ b[i] >>> 7;
            }
            for (int i = 0; i < n; i++) {
                f[i] = f[i] * 0.5f + a[i] / 3.0f;
            }
            for (int i = 0; i < n; i++) {
                s[i] += (short) (a[i] >> 5);
                y[i] ^= (byte) (s[i] + b[i]);
            }
            for (int i = 1; i < n; i++) {
                a[i] = Integer.rotateLeft(a[i], i & 31) + Math.max(a[i - 1], y[i]) + Integer.bitCount(a[i]);
            }
        }
        int sum = 1;
        for (float x : f) {
            sum = sum * 31 + Float.floatToIntBits(x);
        }
        return Arrays.hashCode(a) + " " + Arrays.hashCode(b) + " " + Arrays.hashCode(s) + " " + Arrays.hashCode(y) + " " + sum;
    }

    static String shapes() {
        double sum = 0;
        Random random = new Random(9);
        for (int i = 0; i < size * 100000; i++) {
            Shape shape;
            int kind = i < size * 50000 ? random.nextInt(2) : random.nextInt(3); // a third class where two were seen
            if (kind == 0) {
                shape = new Square(i % 100);
            } else if (kind == 1) {
                shape = new Circle(i % 77);
            } else {
                shape = new Ring(i % 50);
            }
            sum += shape.area() / (1 + i % 13);
        }
        return Double.toHexString(sum);
    }

    static String text() throws Exception {
        StringBuilder builder = new StringBuilder();
        Random random = new Random(21);
        for (int i = 0; i < size * 20000; i++) {
            builder.append((char) ('a' + random.nextInt(26)));
            if (random.nextInt(6) == 0) {
                builder.append(i % 50 == 0 ? " \u03b1\u00df\u4e2d " : " ");
            }
        }
        String all = builder.toString();
        Map<String, Integer> counts = new TreeMap<>();
        for (String word : all.split("\\s+")) {
            counts.merge(word.length() > 2 ? word.substring(0, 2) : word, 1, Integer::sum);
        }
        Matcher matcher = Pattern.compile("([aeiou])([^aeiou ]+)\\1?").matcher(all);
        StringBuilder turned = new StringBuilder();
        while (matcher.find()) {
            matcher.appendReplacement(turned, matcher.group(2).toUpperCase() + matcher.group(1));
        }
        matcher.appendTail(turned);
        String sorted = Arrays.stream(all.split(" ")).sorted().distinct().collect(Collectors.joining("|"));
        return counts.hashCode() + " " + hex(turned.toString().getBytes(StandardCharsets.UTF_8)) + " "
            + hex(sorted.getBytes(StandardCharsets.UTF_16));
    }

    static String numbers() {
        BigInteger factorial = BigInteger.ONE;
        for (int i = 1; i <= size * 300; i++) {
            factorial = factorial.multiply(BigInteger.valueOf(i));
        }
        BigInteger prime = BigInteger.TWO.pow(521).subtract(BigInteger.ONE);
        BigInteger power = factorial.mod(prime).modPow(prime.shiftRight(3), prime);
        BigDecimal root = new BigDecimal(2).sqrt(new MathContext(100 * size));
        double sum = 0;
        long bits = 0;
        for (int i = 1; i < size * 20000; i++) {
            double x = i * 1.0001;
            sum += StrictMath.sin(x) * StrictMath.exp(-x / 1e4) + StrictMath.cbrt(x) + Math.fma(x, x, -1.5) + Math.sqrt(x);
            bits = bits * 31 + Double.doubleToLongBits(sum) + (long) (sum * 1e15) + (int) sum + Math.round(x / 3) + (long) (x % 0.7 * 1e9);
            bits ^= Long.divideUnsigned(bits, i) + Long.remainderUnsigned(bits, i + 7) + bits / -i + bits % (i - 1 | 1);
        }
        return factorial.hashCode() + " " + power.hashCode() + " " + root.hashCode() + " " + Double.toHexString(sum) + " " + bits
            + " " + new BigInteger("9".repeat(200 * size)).isProbablePrime(5);
    }

    static String control() {
        int sum = 0;
        Object[] things = {1, "two", 3.0, new int[4], null, 'x'};
        for (int i = 0; i < size * 30000; i++) {
            try {
                Object thing = things[i % 7];
                if (thing instanceof String) {
                    sum += ((String) thing).length();
                } else if (i % 5 == 0) {
                    sum ^= (Integer) thing;
                } else {
                    sum += thing.hashCode() == 0 ? 1 : thing.getClass().getName().length();
                }
                sum /= i % 11 - 3;
            } catch (ArrayIndexOutOfBoundsException e) {
                sum += 7;
            } catch (ClassCastException e) {
                sum += 11;
            } catch (NullPointerException e) {
                sum ^= 13;
            } catch (ArithmeticException e) {
                sum = sum * 17 + 1;
            } finally {
                sum += i;
            }
        }
        return String.valueOf(sum);
    }

    static String packing() throws Exception {
        byte[] data = new byte[size * 100000], packed = new byte[data.length * 2], back = new byte[data.length];
        Random random = new Random(4);
        for (int i = 0; i < data.length; i++) {
            data[i] = (byte) (random.nextInt(4) == 0 ? random.nextInt() : data[Math.max(0, i - 100)]);
        }
        Deflater deflater = new Deflater(7);
        deflater.setInput(data);
        deflater.finish();
        int length = deflater.deflate(packed);
        Inflater inflater = new Inflater();
        inflater.setInput(packed, 0, length);
        inflater.inflate(back);
        CRC32 crc = new CRC32();
        crc.update(packed, 0, length);
        return length + " " + crc.getValue() + " " + Arrays.equals(data, back) + " " + hex(data);
    }

    static String threads() throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(4);
        Map<Integer, Integer> counts = new ConcurrentHashMap<>();
        AtomicLong total = new AtomicLong();
        ReentrantLock lock = new ReentrantLock();
        long[] guarded = new long[2];
        List<Callable<Long>> jobs = new ArrayList<>();
        for (int job = 0; job < 8; job++) {
            int own = job;
            jobs.add(() -> {
                long local = 0;
                for (int i = 0; i < size * 4000; i++) {
                    counts.merge(i % 1009, own, Integer::sum);
                    total.addAndGet(i ^ own);
                    lock.lock();
                    try {
                        guarded[0]++;
                        guarded[1] += guarded[0] & 1;
                    } finally {
                        lock.unlock();
                    }
                    synchronized (counts) {
                        local += counts.size() > 0 ? 1 : 0;
                    }
                }
                return local;
            });
        }
        long sum = 0;
        for (Future<Long> done : pool.invokeAll(jobs)) {
            sum += done.get();
        }
        pool.shutdown();
        long parallel = IntStream.range(0, size * 100000).parallel().mapToLong(i -> (long) i * i % 1013).sum();
        return new HashMap<>(counts).hashCode() + " " + total + " " + guarded[0] + " " + guarded[1] + " " + sum + " " + parallel;
    }

    static String garbage() {
        Random random = new Random(8);
        Object[] kept = new Object[1000];
        long sum = 0;
        for (int i = 0; i < size * 100000; i++) {
            Object[] node = {kept[random.nextInt(1000)], i, new byte[random.nextInt(64)]};
            if (i % 3000 == 0) {
                Arrays.fill(kept, null);
            }
            kept[random.nextInt(1000)] = node;
        }
        for (Object start : kept) {
            for (Object[] node = (Object[]) start; node != null; node = (Object[]) node[0]) {
                sum = sum * 31 + (Integer) node[1] + ((byte[]) node[2]).length;
            }
        }
        return String.valueOf(sum);
    }

    public static void main(String[] arguments) throws Exception {
        size = Integer.parseInt(arguments[0]);
        System.out.println("matrices " + matrices());
        System.out.println("vectors " + vectors());
        System.out.println("shapes " + shapes());
        System.out.println("text " + text());
        System.out.println("numbers " + numbers());
        System.out.println("control " + control());
        System.out.println("packing " + packing());
        System.out.println("threads " + threads());
        System.out.println("garbage " + garbage());
    }
}
